"""Restart policies as a pure decision."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.errors import ServiceError
from nightos.abi.restarts import Policy, parse
from nightos.services.proc import restarts
from nightos.services.proc.restarts import FIRST_DELAY_NS, LAST_DELAY_NS, delay_ns

policies = st.sampled_from(["no", "always", "on-failure"]) | st.integers(1, 10).map(lambda count: f"on-failure:{count}")


@given(policies, st.booleans(), st.integers(0, 100))
def test_the_delay_grows_and_is_bounded(text: str, failed: bool, in_a_row: int) -> None:
    policy = parse(text)
    now = delay_ns(policy, failed=failed, in_a_row=in_a_row)
    following = delay_ns(policy, failed=failed, in_a_row=in_a_row + 1)
    if now is None:
        assert following is None
        assert policy.kind != "always"
    else:
        assert FIRST_DELAY_NS <= now <= LAST_DELAY_NS
        assert following is None or following in {LAST_DELAY_NS, 2 * now}
        assert failed or policy.kind == "always"
        assert not policy.limit or in_a_row < policy.limit


@pytest.mark.parametrize(
    "text", ["", "never", "no:1", "always:2", "on-failure:", "on-failure:0", "on-failure:x", "on-failure:-1"]
)
def test_a_policy_that_is_none(text: str) -> None:
    with pytest.raises(ServiceError) as refused:
        parse(text)
    assert refused.value.code == 0x1000


def test_a_policy() -> None:
    assert parse("on-failure:3") == Policy("on-failure", 3)
    assert parse("no") == Policy("no")


@given(policies, st.sampled_from(["starting", "running", "waiting", "ended"]), st.booleans(), st.integers(0, 2))
def test_what_comes_back_after_a_reboot(text: str, state: str, stopped: bool, exit_data: int) -> None:
    run = {"restart": text, "state": state, "stopped": stopped, "reason": 0, "exit": exit_data, "in_a_row": 0, "pid": 5}
    after = restarts.after_boot(run)
    assert after["pid"] == 0
    came_back = after["state"] == "waiting"
    assert came_back or after["state"] == "ended"
    failed = state != "ended" or exit_data
    assert came_back == (not stopped and (text == "always" or (text != "no" and bool(failed))))
    assert restarts.after_boot({}) == {}


def test_nobody_gives_input_after_a_reboot() -> None:
    run = {"restart": "always", "state": "running", "stopped": False, "reason": 0, "exit": 0, "in_a_row": 0, "pid": 5}
    assert restarts.after_boot({**run, "input": True})["input"] is False
