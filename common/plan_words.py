"""A plan in plain words, for whoever has to agree to it."""

from __future__ import annotations

from common.parts import PARTS
from common.plan import Plan, Stage
from common.stages import Setting

PART_WORDS = {
    "trunk": "convolution weights",
    "norm_affine": "BatchNorm scale and shift",
    "norm_stats": "BatchNorm statistics",
    "head": "the classification head",
}
_NORM_WORDS = {
    "batch": "BatchNorm follows the site's own batches",
    "frozen": "BatchNorm statistics stand still",
    "reestimate": "BatchNorm statistics are re-estimated; no weight is trained",
}


def describe_plan(plan: Plan) -> list[str]:
    """Describe a plan, one short line per fact; details are indented by two spaces."""
    target, pre, split = plan.target, plan.preprocessing, plan.split
    roster, evaluation = plan.roster, plan.evaluation
    lines = [
        f"Plan {plan.id}, for mammofed {plan.version}, hash {plan.hash[:12]}",
        f"Sites: {', '.join(roster.sites)}; a round needs {roster.minimum_sites}",
    ]
    if roster.required:
        lines.append(f"  never without {', '.join(roster.required)}")
    if roster.permitted_absences is not None:
        lines.append(f"  each may miss {roster.permitted_absences} rounds")
    if roster.stale_after is not None:
        lines.append(
            f"  after more than {roster.stale_after} missed rounds in a row a site "
            "re-estimates its BatchNorm statistics"
        )
    lines += [
        f"Task: {target.field} >= {target.at_least} is positive, by {target.unit}",
        f"  truth accepted from: {', '.join(target.label_sources)}",
        f"Images: {', '.join(pre.modalities)}, {pre.rows} x {pre.columns} pixels, "
        f"VOI {pre.voi}, crop {pre.crop}",
        *(f"  VOI {voi} for {who}" for who, voi in sorted(pre.voi_of.items())),
    ]
    if "DBT" in pre.modalities:
        lines.append(f"  a tomosynthesis volume is {_tomosynthesis(plan)}")
    if pre.repeats == "best":
        lines.append("  of several images of one view, the best one only")
    lines += [
        f"Patients: {split.train:.0%} train, {split.validation:.0%} validation, "
        f"{split.test:.0%} test" + (", official splits kept" if split.official else ""),
        f"Start: {_start(plan)}",
    ]
    if plan.smoke_test:
        lines.append("Patients are unknown: by image, smoke test; nothing is claimed")
    for number, stage in enumerate(plan.stages, start=1):
        lines += _describe_stage(number, stage)
    lines += [
        f"Average: {_weights(plan)}",
        *_messages(plan),
        f"Result: the round with the best mean {evaluation.selection} over sites on "
        f"validation, trailing mean of {evaluation.trailing}",
        f"Operating point: {evaluation.at_specificity:.0%} specificity on validation",
        "Privacy: no differential privacy; pixels, labels and scores stay at the site",
    ]
    return lines


def _describe_stage(number: int, stage: Stage) -> list[str]:
    shared = stage.sharing_letters()
    travels = [PART_WORDS[part] for part in PARTS if shared[part]]
    stays = [PART_WORDS[part] for part in PARTS if not shared[part]]
    optimizer, work = stage.optimizer, stage.work
    lines = [
        f"Stage {number}, {stage.name}: {stage.rounds} rounds, {stage.model.name}",
        f"  travels: {', '.join(travels) or 'nothing; this is local training'}",
        f"  stays at the site: {', '.join(stays) or 'nothing'}",
        f"  {_NORM_WORDS[stage.norm_mode]}",
    ]
    if stage.norm_domain == "vendor":
        lines.append("  BatchNorm of its own for each vendor among a site's images")
    if stage.trainable:
        lines.append(
            f"  each round: {work.amount} {work.unit} of {work.batch_size} images, "
            f"{optimizer.name}, rate {optimizer.learning_rate:g} {optimizer.schedule}, "
            f"optimiser state {optimizer.state}"
        )
        lines += _objective(stage)
    if optimizer.proximal:
        lines.append(f"  FedProx with mu {optimizer.proximal:g}")
    return lines


def _objective(stage: Stage) -> list[str]:
    terms = []
    for name, settings in sorted(stage.objective.items()):
        weight = settings.get("weight", 1.0)
        said = "" if weight == 1 else f"{weight:g} times "
        own = [f"{k} {_plain(v)}" for k, v in sorted(settings.items()) if k != "weight"]
        terms.append(f"{said}{name}" + (f" ({', '.join(own)})" if own else ""))
    lines = [f"  loss: {' + '.join(terms)}"]
    if set(stage.objective) - {"ce"}:
        lines.append("  layers that the loss alone has, if any, stay at the site")
    if stage.domain != "site":
        lines.append(f"  domains inside a site are told apart by {stage.domain}")
    if stage.work.sampler == "balanced":
        lines.append("  batches hold every class of every domain alike")
    return lines


def _plain(value: Setting) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _weights(plan: Plan) -> str:
    words = f"weighted by {plan.aggregation.weight}"
    if (most := plan.aggregation.maximum_share) is not None:
        words += f", no site above {most:.0%}"
    return words


def _messages(plan: Plan) -> list[str]:
    if plan.aggregation.transport == "float32":
        return []
    return [
        f"  messages in {plan.aggregation.transport}, half the bytes; what rounding "
        "takes from an update is sent with the next one"
    ]


def _tomosynthesis(plan: Plan) -> str:
    if plan.preprocessing.tomosynthesis == "slab":
        return "one image, the maximum over all its slices"
    return f"{plan.preprocessing.slices} evenly spaced slices, each an image"


def _start(plan: Plan) -> str:
    if plan.start.kind == "checkpoint":
        return f"{plan.start.source or 'a checkpoint'} ({plan.start.sha256[:12]})"
    return {"random": "random weights", "imagenet": "ImageNet's weights"}[
        plan.start.kind
    ]
