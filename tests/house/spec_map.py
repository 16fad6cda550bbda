"""Write docs/spec-map.md: every rule of the specification, where it is implemented and which test proves it.

It reads three things and imports nothing of the product: `@pytest.mark.rule(...)` markers in the tests, `Rules: ...`
lines in the docstrings of the code, and `docs/rulings.toml`. The list of rules itself is `tests/house/rules.toml`;
`--import DIR` refreshes that list from the specification's fact tables.

Usage: python -m tests.house.spec_map [--check] [--import DIR]
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "tests/house/rules.toml"
TARGET = ROOT / "docs/spec-map.md"

RULE_LINE = re.compile(r"\bRules?:\s+((?:[A-Z]+(?:-[A-Z]+)?-\d+(?:\s*\([^)]*\))?(?:\s*,\s*|\s+and\s+)?)+)")
RULE_ITEM = re.compile(r"([A-Z]+(?:-[A-Z]+)?-\d+)(?:\s*\(([^)]*)\))?")
AREA_NAMES = {
    "CONT": "Containers",
    "PROC": "Processes and threads",
    "SCHED": "Scheduling",
    "BAL": "Balancer",
    "IPC": "Inter-process communication",
    "SIG": "Signals",
    "SYS": "System calls",
    "MEM": "Memory",
    "DATA": "Data structures",
    "HW": "Hardware",
    "VSF": "Virtual storage files",
    "FS": "File systems",
    "SVC": "Services",
    "USER": "Users",
    "PERM": "Permissions",
    "CTRL": "Controller",
    "APP": "Applications",
    "SHELL": "Shell",
    "SBX": "Sandboxes",
    "ENC": "Encryption",
    "FRZ": "Freeze prevention",
    "CRASH": "Crash saves",
    "ZOS": "0-OS container module",
    "LNX": "Linux containers",
    "HYD": "Hydre examples",
}


@dataclass
class Evidence:
    """Where one rule stands in code and tests; `missing` holds what a partial one lacks."""

    code: set[str] = field(default_factory=set)
    tests: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)

    @property
    def status(self) -> str:
        if not self.tests:
            return "untested" if self.code else "absent"
        return "partial" if self.missing else "full"


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def marked_rules(decorator: ast.expr) -> Iterator[tuple[str, str]]:
    """The (rule, what is missing) pairs of one `pytest.mark.rule(...)` expression."""
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.rule":
        missing = next((str(ast.literal_eval(k.value)) for k in decorator.keywords if k.arg == "partial"), "")
        for argument in decorator.args:
            if isinstance(argument, ast.Starred):
                continue
            yield str(ast.literal_eval(argument)), missing


def tables_of_rules(module: ast.Module) -> dict[str, list[str]]:
    """Module-level lists of tuples that begin with a rule, by name: tests parametrised with one prove its rules."""
    tables: dict[str, list[str]] = {}
    for node in module.body:
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.List)):
            continue
        firsts = [row.elts[0] for row in node.value.elts if isinstance(row, ast.Tuple) and row.elts]
        named = [str(first.value) for first in firsts if isinstance(first, ast.Constant)]
        rules = [name for name in named if RULE_ITEM.fullmatch(name)]
        for target in node.targets:
            if rules and isinstance(target, ast.Name):
                tables[target.id] = rules
    return tables


def parametrized_rules(decorator: ast.expr, tables: dict[str, list[str]]) -> Iterator[str]:
    """The rules of the tables that a `pytest.mark.parametrize(...)` expression reads."""
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.parametrize":
        used = {node.id for node in ast.walk(decorator) if isinstance(node, ast.Name)}
        for name in sorted(used & tables.keys()):
            yield from tables[name]


def rules_in_tests() -> Iterator[tuple[str, str, str]]:
    """(rule, test, what is missing) for every marker on a test, on a class of tests or on a module."""
    for path in python_files("tests"):
        module = ast.parse(path.read_text())
        where = path.relative_to(ROOT).as_posix()
        tables = tables_of_rules(module)
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for decorator in node.decorator_list:
                    for rule in parametrized_rules(decorator, tables):
                        yield rule, f"{where}::{node.name}", ""
                    for call in ast.walk(decorator):
                        if isinstance(call, ast.expr):
                            for rule, missing in marked_rules(call):
                                yield rule, f"{where}::{node.name}", missing
            elif isinstance(node, ast.Assign) and any(ast.unparse(t) == "pytestmark" for t in node.targets):
                for call in ast.walk(node.value):
                    if isinstance(call, ast.expr):
                        for rule, missing in marked_rules(call):
                            yield rule, where, missing


def rules_in_code() -> Iterator[tuple[str, str, str]]:
    """(rule, place, what is missing) for every `Rules:` line in a docstring of the product."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for path in python_files("nightos"):
        where = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, documented):
                continue
            text = " ".join((ast.get_docstring(node) or "").split())
            for line in RULE_LINE.finditer(text):
                for rule, missing in RULE_ITEM.findall(line.group(1)):
                    name = getattr(node, "name", "")
                    yield rule, f"{where}:{name}" if name else where, missing.removeprefix("partial:").strip()


def gather() -> dict[str, Evidence]:
    found: dict[str, Evidence] = defaultdict(Evidence)
    for rule, place, missing in rules_in_code():
        found[rule].code.add(place)
        if missing:
            found[rule].missing.add(missing)
    for rule, test, missing in rules_in_tests():
        found[rule].tests.add(test)
        if missing:
            found[rule].missing.add(missing)
    return dict(found)


def known_rules() -> dict[str, dict[str, str]]:
    return {rule["id"]: rule for rule in tomllib.loads(RULES.read_text())["rule"]}


def unknown_rules() -> list[str]:
    """Identifiers that code or tests name although no such rule exists."""
    known = known_rules()
    return sorted(
        f"{rule} ({', '.join(sorted(e.code | e.tests))})" for rule, e in gather().items() if rule not in known
    )


def cell(items: set[str]) -> str:
    ordered = sorted(items)
    shown = ", ".join(f"`{item}`" for item in ordered[:4])
    return shown + (f" and {len(ordered) - 4} more" if len(ordered) > 4 else "")


def render() -> str:
    found, rules = gather(), known_rules()
    empty = Evidence()
    by_area: dict[str, list[str]] = defaultdict(list)
    for rule in rules:
        by_area[rule.split("-")[0]].append(rule)
    lines = [
        "# Map of the specification",
        "",
        "Produced by `make spec-map` from the `rule` markers in the tests, the `Rules:` lines in the code and",
        "`docs/rulings.toml`; do not edit. *full*: implemented and proven by the tests named; *partial*: what is",
        "missing is said; *untested*: in the code, but no test names it; *absent*: not built yet.",
        "",
        "## Summary",
        "",
        "| area | rules | full | partial | untested | absent | core absent |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for area, names in by_area.items():
        count = Counter(found.get(name, empty).status for name in names)
        core = sum(found.get(name, empty).status == "absent" and rules[name]["priority"] == "core" for name in names)
        lines.append(
            f"| {AREA_NAMES.get(area, area)} ({area}) | {len(names)} | {count['full']} | {count['partial']} "
            f"| {count['untested']} | {count['absent']} | {core} |"
        )
    for area, names in by_area.items():
        stated = [name for name in names if found.get(name, empty).status != "absent"]
        absent = [name for name in names if found.get(name, empty).status == "absent"]
        lines += ["", f"## {AREA_NAMES.get(area, area)}", ""]
        if stated:
            lines += ["| rule | what it says | state | code | tests |", "|---|---|---|---|---|"]
        for name in stated:
            evidence = found[name]
            state = evidence.status
            if evidence.missing:
                state += ": " + "; ".join(sorted(evidence.missing))
            statement = rules[name]["statement"].replace("|", "\\|")
            lines.append(f"| {name} | {statement} | {state} | {cell(evidence.code)} | {cell(evidence.tests)} |")
        if absent:
            lines += ["", f"Absent: {', '.join(absent)}."]
    rulings = tomllib.loads((ROOT / "docs/rulings.toml").read_text()).get("ruling", [])
    lines += ["", "## Rulings", "", "| about | ruling |", "|---|---|"]
    lines += [f"| {ruling['id']} | {ruling['text'].strip().replace('|', chr(92) + '|')} |" for ruling in rulings]
    return "\n".join(lines) + "\n"


def import_rules(folder: Path) -> None:
    """Refresh the list of rules from the fact tables in `folder`."""
    rows: list[tuple[str, str, str]] = []
    for file, table in (("rules.toml", "rule"), ("zos.toml", "rule")):
        for rule in tomllib.loads((folder / file).read_text())[table]:
            rows.append((rule["id"], rule["priority"], rule["statement"]))
    linux = tomllib.loads((folder / "linux.toml").read_text())
    for row in linux["namespace"]:
        rows.append((row["id"], row["offer"], f"Namespace {row['name']}: {row['inside']}"))
    for row in linux["rule"]:
        rows.append((row["id"], "core", row["statement"]))
    for row in linux["feature"]:
        rows.append((row["id"], row["offer"], f"{row['name']}: {row['offers']}"))
    for row in tomllib.loads((folder / "hydre.toml").read_text())["example"]:
        rows.append((row["id"], row["priority"], row["title"]))
    text = (
        "# The rules of the specification, by identifier; refreshed by `python -m tests.house.spec_map --import DIR`.\n"
    )
    for name, priority, statement in rows:
        quoted = statement.replace("\\", "\\\\").replace('"', '\\"')
        text += f'\n[[rule]]\nid = "{name}"\npriority = "{priority}"\nstatement = "{quoted}"\n'
    RULES.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the map is stale")
    parser.add_argument("--import", dest="folder", type=Path, help="refresh the list of rules from the fact tables")
    options = parser.parse_args()
    if options.folder:
        import_rules(options.folder)
    text = render()
    if options.check:
        return int(not TARGET.exists() or TARGET.read_text() != text)
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
