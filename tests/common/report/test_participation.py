import pytest

from common.report.participation import participation


def entry(round_=1, site="a", **fields):
    base = {"stage": "adapt", "round": round_, "site": site, "reason": None}
    present = {"expected": True, "configured": True, "replied": True, "counted": True}
    return base | present | fields


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "counted"),
        ({"counted": False}, "refused"),
        ({"counted": None}, "hidden"),
        ({"replied": False, "counted": False}, "absent"),
        ({"expected": False, "replied": False, "counted": False}, "idle"),
    ],
)
def test_each_state_has_its_mark(fields, state):
    (arm,) = participation({"ledger": [entry(**fields)]})
    assert arm.sites[0].marks[0].state == state
    assert arm.complete == (state not in {"refused", "absent"})


def test_sums_leave_hidden_values_out():
    ledger = [
        entry(1, samples=100, weight_share=0.25, seconds=2.0, update_norm=1.0),
        entry(2, samples=300, weight_share=0.75, seconds=3.0, update_norm=None),
    ]
    (arm,) = participation({"ledger": ledger})
    site = arm.sites[0]
    assert (site.samples, site.weight_share, site.seconds) == ("400", "0.500", "5")
    assert (site.update_norm, site.counted) == ("1.000", 2)


def test_a_round_without_entry_is_idle_and_reasons_are_counted():
    late = {"replied": False, "counted": False, "reason": "late"}
    ledger = [entry(1), entry(1, "b"), entry(2, "b", **late), entry(3, "b", **late)]
    (arm,) = participation({"ledger": ledger})
    assert [mark.state for mark in arm.sites[0].marks] == ["counted", "idle", "idle"]
    assert arm.sites[1].reasons == "late (2 rounds)"
    assert arm.rounds == "adapt: 3 rounds"


def test_arms_and_stages_are_kept_apart():
    ledger = [
        entry(1, arm="fedavg"),
        entry(1, arm="fedbn"),
        entry(1, arm="fedbn", stage="tune"),
    ]
    arms = participation({"ledger": ledger})
    assert [arm.arm for arm in arms] == ["fedavg", "fedbn"]
    assert [len(arm.sites[0].marks) for arm in arms] == [1, 2]
