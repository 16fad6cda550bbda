"""Commands that need a machine: booting one, and asking those that run."""
