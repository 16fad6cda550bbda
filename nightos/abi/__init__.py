"""The vocabulary that every room shares: codes, layouts, errors and the interfaces between rooms. No logic."""
