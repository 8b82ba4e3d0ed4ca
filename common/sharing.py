"""THE rule for which tensors travel. Nothing else in mammofed decides it.

Three switches, never mixed: sharing (which tensors the server averages), trainable
(which ones the local optimiser moves) and norm_mode (what running statistics do).

Norm layers are found by type, never by name: ``"bn" in name`` misses ResNet's
``downsample.1`` and every norm of a DenseNet. The head is the one that the model
declares by ``head_prefix``; a norm inside the head belongs to the head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from common import plan
from common.contract import Contract, TensorSpec
from common.norm_domains import copied_names
from common.norms import find_norms, running_statistics
from common.parts import Part
from common.transport import Transport


def assign_parts(model: nn.Module) -> dict[str, Part | Literal["constant"]]:
    """Assign every tensor of a model to its part.

    Parameters
    ----------
    model : declares its head by ``head_prefix``, which ends in a dot

    Returns
    -------
    Name to part, in the order of the state dict. ``constant`` are buffers outside
    norms: they follow from the model's description (window indices of a Swin).
    Everything in a norm that is neither weight nor bias is ``norm_stats``.

    Raises
    ------
    ValueError
        If the model declares no head, or no tensor belongs to it.
    """
    prefix = _head_prefix(model)
    norms = {name for name, _ in find_norms(model)}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    parts: dict[str, Part | Literal["constant"]] = {}
    for key in model.state_dict():
        in_norm = not norms.isdisjoint(_owners(key))
        if not in_norm and key not in parameters:
            parts[key] = "constant"
        elif key.startswith(prefix):
            parts[key] = "head"
        elif not in_norm:
            parts[key] = "trunk"
        elif key in parameters or key.endswith((".weight", ".bias")):
            parts[key] = "norm_affine"
        else:
            parts[key] = "norm_stats"
    if "head" not in parts.values():
        raise ValueError(
            f"No tensor of {type(model).__name__} starts with its head_prefix "
            f"{prefix!r}; without a head nothing can be kept at the site. "
            "Correct head_prefix"
        )
    return parts


def contract(
    model: nn.Module, stage: plan.Stage, transport: Transport = "float32"
) -> Contract:
    """Derive the contract of one stage.

    A parameter changes if its part is in ``stage.trainable``; a running statistic,
    in the head too, unless ``stage.norm_mode`` is ``frozen``; nothing else does.
    ``num_batches_tracked`` and any other integer is local and never averaged.

    Raises
    ------
    ValueError
        If a trainable part selects no parameter of the model, a stage that only
        re-estimates statistics has none, or one with norms for each vendor has no
        norms: such a stage would silently do less than the plan says.
    """
    parts = assign_parts(model)
    state = model.state_dict()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    letters = stage.sharing_letters()
    trainable = {key for key in parameters if parts[key] in stage.trainable}
    changing = set(trainable)
    if stage.norm_mode != "frozen":
        changing |= running_statistics(model)
    _check_switches(parts, parameters, stage)

    names: dict[str, list[str]] = {"sent": [], "fixed": [], "local": [], "constant": []}
    for key, part in sorted(parts.items()):
        if part == "constant":
            names["constant"].append(key)
        elif not letters[part] or not state[key].is_floating_point():
            names["local"].append(key)
        else:
            names["sent" if key in changing else "fixed"].append(key)
    return Contract(
        stage=stage,
        **{kind: tuple(keys) for kind, keys in names.items()},
        trainable=tuple(sorted(trainable)),
        layout=layout(state),
        warnings=_warnings(parts, stage, sends=bool(names["sent"])),
        copies=copied_names(model),
        transport=transport,
    )


def layout(tensors: Mapping[str, Tensor]) -> tuple[TensorSpec, ...]:
    """List name, shape and dtype of tensors, sorted by name."""
    return tuple(
        TensorSpec(key, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for key, tensor in sorted(tensors.items())
    )


def set_trainable(model: nn.Module, trainable: Collection[str]) -> None:
    """Let gradients flow to the named parameters and to no other."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(name in trainable)


def load_exactly(
    model: nn.Module, tensors: Mapping[str, Tensor], expected: Collection[str]
) -> None:
    """Copy exactly the expected tensors into a model, in place.

    Nothing is reallocated: optimisers and views keep pointing at the same memory, on
    any device and in any memory format. The rest of the model is untouched.

    Parameters
    ----------
    tensors : by name; each with the model's shape and dtype
    expected : the names that must be there, no more and no fewer

    Raises
    ------
    ValueError
        Naming all missing, unexpected, unknown and ill-shaped tensors; the model is
        then unchanged.
    """
    state: dict[str, Tensor] = model.state_dict()
    problems = [f"{key}: missing" for key in sorted(set(expected) - tensors.keys())]
    for key in sorted(tensors):
        if key not in state:
            problems.append(f"{key}: unknown to the model")
        elif key not in expected:
            problems.append(f"{key}: not expected here")
        elif (ours := layout({key: state[key]})) != (
            got := layout({key: tensors[key]})
        ):
            problems.append(f"{key}: is {_look(got)}, the model has {_look(ours)}")
    if problems:
        raise ValueError(
            f"Cannot load {len(tensors)} tensors where {len(set(expected))} are "
            "expected. Both ends must use the same plan, stage and version:\n  "
            + "\n  ".join(problems)
        )
    with torch.no_grad():
        for key, tensor in tensors.items():
            state[key].copy_(tensor)


def _look(layout: tuple[TensorSpec, ...]) -> str:
    return f"{layout[0].dtype} {layout[0].shape}"


def _owners(key: str) -> Iterator[str]:
    """List the modules around a tensor: of ``a.b.weight``, ``a.b`` and ``a``."""
    while "." in key:
        key = key.rpartition(".")[0]
        yield key


def _head_prefix(model: nn.Module) -> str:
    prefix = getattr(model, "head_prefix", None)
    if not isinstance(prefix, str) or not prefix.endswith("."):
        raise ValueError(
            f"{type(model).__name__} declares no head: it needs head_prefix, the start "
            "of the head's tensor names with a trailing dot, such as 'heads.density.'"
        )
    return prefix


def _check_switches(
    parts: Mapping[str, str], parameters: Collection[str], stage: plan.Stage
) -> None:
    for part in stage.trainable:
        if not any(parts[key] == part for key in parameters):
            raise ValueError(
                f"stage {stage.name}: trainable names {part}, but {stage.model.name} "
                f"has no such parameter. Remove {part} from trainable"
            )
    if stage.norm_mode == "reestimate" and "norm_stats" not in parts.values():
        raise ValueError(
            f"stage {stage.name}: norm_mode=reestimate, but {stage.model.name} keeps "
            "no running statistics. Remove the stage or choose a BatchNorm model"
        )
    if stage.norm_domain == "vendor" and not {"norm_affine", "norm_stats"} & {
        *parts.values()
    }:
        raise ValueError(
            f"stage {stage.name}: norm_domain=vendor, but {stage.model.name} has no "
            "norm layers. Use norm_domain=site or choose a model with some"
        )


def _warnings(
    parts: Mapping[str, str], stage: plan.Stage, sends: bool
) -> tuple[str, ...]:
    """Say where a switch means less, or something else, than its name promises."""
    shared = stage.sharing_letters()
    name = stage.model.name
    warnings = []
    if "norm_stats" not in parts.values():
        if shared["trunk"] and not shared["norm_affine"]:
            warnings.append(
                f"{name} has no BatchNorm: local norm layers here are local affine "
                "parameters, not the published FedBN"
            )
        if shared["norm_stats"] != shared["norm_affine"]:
            warnings.append(
                f"{name} keeps no running statistics: sharing={stage.sharing} "
                "selects none with its third letter"
            )
        if stage.norm_mode == "frozen":
            warnings.append(
                f"{name} keeps no running statistics: norm_mode=frozen has no effect"
            )
    if any(shared.values()) and not sends:
        warnings.append(
            f"stage {stage.name} changes nothing that it shares: "
            "this is local training, not a federation"
        )
    return tuple(warnings)
