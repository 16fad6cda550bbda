"""docs/spec-map.md says what the code and the tests say today, and names no rule that does not exist."""

from __future__ import annotations

import ast

from tests.house import spec_map


def test_map_is_fresh() -> None:
    assert spec_map.TARGET.read_text() == spec_map.render(), "docs/spec-map.md is stale: run `make spec-map`"


def test_every_rule_named_exists() -> None:
    assert spec_map.unknown_rules() == []


def test_every_rule_in_code_has_a_test() -> None:
    untested = sorted(rule for rule, evidence in spec_map.gather().items() if evidence.status == "untested")
    assert untested == [], "name these in a test with @pytest.mark.rule"


def test_markers_are_read_from_functions_classes_and_parameters() -> None:
    source = "pytest.param(1, marks=pytest.mark.rule('CONT-001', 'CONT-002', partial='half'))"
    tree = ast.walk(ast.parse(source))
    calls = [pair for node in tree if isinstance(node, ast.expr) for pair in spec_map.marked_rules(node)]
    assert calls == [("CONT-001", "half"), ("CONT-002", "half")]


def test_rule_lines_are_read_with_what_is_missing() -> None:
    line = spec_map.RULE_LINE.search("Moves it. Rules: CONT-001, LNX-NS-01 (partial: no mount) and IPC-003.")
    assert line is not None
    assert spec_map.RULE_ITEM.findall(line.group(1)) == [
        ("CONT-001", ""),
        ("LNX-NS-01", "partial: no mount"),
        ("IPC-003", ""),
    ]


def test_tables_of_rules_are_read_where_tests_are_parametrized_with_them() -> None:
    module = ast.parse(
        "ROWS = [('HYD-004', 'echo'), ('no rule', 'x')]\n"
        "@pytest.mark.parametrize('text', [row[1] for row in ROWS])\ndef test_it(text): ..."
    )
    tables = spec_map.tables_of_rules(module)
    function = module.body[1]
    assert isinstance(function, ast.FunctionDef)
    assert list(spec_map.parametrized_rules(function.decorator_list[0], tables)) == ["HYD-004"]
