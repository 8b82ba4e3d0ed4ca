"""The plan's canonical form, its checks, and its counting of rounds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from common.plan import (
    Aggregation,
    PlanError,
    Preprocessing,
    Roster,
    Split,
    Start,
    Work,
    plan_from_json,
    plan_to_json,
    read_plan,
)
from common.plan_words import describe_plan
from tests.support.hospitals import small_plan, small_stage


def test_a_plan_survives_json_with_the_same_hash() -> None:
    plan = small_plan(small_stage(rounds=2), small_stage("second", 3, sharing="slls"))
    again = plan_from_json(plan_to_json(plan))
    assert again == plan
    assert again.hash == plan.hash


def test_the_hash_does_not_depend_on_the_order_of_keys() -> None:
    plan = small_plan()
    document = json.loads(plan_to_json(plan))
    backwards = json.dumps(dict(reversed(document.items()))).encode()
    assert plan_from_json(backwards).hash == plan.hash


def test_any_change_changes_the_hash() -> None:
    plan = small_plan()
    others = [replace(plan, seed=4), small_plan(small_stage(rounds=4))]
    assert len({p.hash for p in [plan, *others]}) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("planted", 1), ("seed", "one"), ("stages", []), ("precision", "int8")],
)
def test_an_unknown_or_ill_typed_field_is_named(field: str, value: object) -> None:
    document = json.loads(plan_to_json(small_plan())) | {field: value}
    with pytest.raises(PlanError, match=field):
        plan_from_json(json.dumps(document).encode())


def test_rounds_are_numbered_over_stages() -> None:
    plan = small_plan(small_stage(rounds=2), small_stage("second", 3))
    assert plan.rounds == 5
    assert [plan.stage_at(r) for r in range(6)] == [0, 0, 0, 1, 1, 1]
    assert [plan.first_round(stage) for stage in (0, 1)] == [1, 3]
    with pytest.raises(PlanError, match="beyond"):
        plan.stage_at(6)


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="must be 1"):
        Split(0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="each once"):
        Roster(("a", "a"))
    with pytest.raises(ValueError, match="not in sites"):
        Roster(("a",), required=("b",))
    with pytest.raises(ValueError, match="sha256"):
        Start("checkpoint")
    with pytest.raises(ValueError, match="trains nothing"):
        small_stage(norm_mode="reestimate")
    with pytest.raises(ValueError, match="nothing to tell apart"):
        small_stage(norm_domain="vendor", domain="vendor")


def test_a_missing_plan_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="mammo-plan out="):
        read_plan(tmp_path / "plan.json")


def test_the_words_say_what_travels_and_what_stays() -> None:
    plan = small_plan(
        small_stage(sharing="fedbn_head"), small_stage("own", 1, sharing="local")
    )
    words = "\n".join(describe_plan(plan))
    assert "travels: convolution weights\n" in words
    assert "stays at the site: BatchNorm scale and shift, BatchNorm statistics" in words
    assert "nothing; this is local training" in words
    assert plan.hash[:12] in words


def test_the_words_say_how_tomosynthesis_is_read_where_it_is_wanted() -> None:
    def words(**changes: object) -> str:
        pre = Preprocessing(**changes)
        return "\n".join(describe_plan(small_plan(preprocessing=pre)))

    assert "tomosynthesis" not in words()
    assert "is one image, the maximum" in words(modalities=("DBT",))
    cut = words(modalities=("FFDM", "DBT"), tomosynthesis="slices", slices=5)
    assert "is 5 evenly spaced slices" in cut


def test_the_words_tell_the_loss_and_what_it_tells_apart() -> None:
    def words(**changes: Any) -> str:
        return "\n".join(describe_plan(small_plan(small_stage(**changes))))

    assert "  loss: ce\n" in words() and "told apart" not in words()
    said = words(
        objective={"ce": {}, "dann": {"weight": 0.5, "hidden": (8, 4)}},
        domain="vendor",
        work=Work(sampler="balanced"),
    )
    assert "loss: ce + 0.5 times dann (hidden 8 4)" in said
    assert "layers that the loss alone has, if any, stay at the site" in said
    assert "told apart by vendor" in said and "every class of every domain" in said


def test_the_words_tell_the_bound_of_a_share_where_there_is_one() -> None:
    def words(**changes: Any) -> str:
        return "\n".join(describe_plan(small_plan(aggregation=Aggregation(**changes))))

    assert "no site above" not in words()
    assert "weighted by patients, no site above 40%" in words(maximum_share=0.4)
    for share in (0.0, 1.1):
        with pytest.raises(ValidationError, match="maximum_share"):
            Aggregation(maximum_share=share)


def test_the_words_tell_the_format_of_messages_where_it_is_not_float32() -> None:
    def words(**changes: Any) -> str:
        return "\n".join(describe_plan(small_plan(aggregation=Aggregation(**changes))))

    assert "messages" not in words()
    assert "messages in bfloat16, half the bytes" in words(transport="bfloat16")


def test_an_exception_for_a_vendor_that_nobody_has_is_refused() -> None:
    assert Preprocessing(voi_of={"ge/unknown": "none"}).voi_of == {"ge/unknown": "none"}
    for name in ("simens", "ge/processing", "GE"):
        with pytest.raises(ValidationError, match="voi_of"):
            Preprocessing(voi_of={name: "none"})
