"""Norm layers of their own for each domain of a site, such as a vendor's images.

Domain-specific batch normalisation (Chang et al., CVPR 2019, arXiv 1906.03950): every
other weight is common to all domains. A batch holds images of one domain, since the
statistics of a mixed one would be nobody's; the switch says of which.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import Tensor, nn

from common.norms import find_norms


class Switch:
    """Which domain the next batch is of; all norms of a model obey one switch."""

    domain = ""


class DomainNorm(nn.ModuleDict):
    """Stands in for one norm layer: a copy of it for each domain.

    The names of tensors are ``<layer>.<domain>.<tensor>``.

    Parameters
    ----------
    norm : copied, with its values
    domains : names without a dot
    """

    def __init__(self, norm: nn.Module, domains: Iterable[str], switch: Switch) -> None:
        super().__init__({domain: copy.deepcopy(norm) for domain in domains})
        self.switch = switch

    def forward(self, images: Tensor) -> Tensor:
        """Normalise a batch by the norm of the domain it is of."""
        if self.switch.domain not in self:
            raise RuntimeError("a batch went through the model before its domain did")
        normalised: Tensor = self[self.switch.domain](images)
        return normalised


def split_norms(model: nn.Module, domains: Iterable[str]) -> None:
    """Give a model a copy of every norm layer for each domain, in place.

    Norms in the head stay as they are: they belong to the head and travel with it.

    Parameters
    ----------
    model : declares its head by ``head_prefix``
    domains : names without a dot; copies are kept in sorted order
    """
    switch, ordered = Switch(), sorted(domains)
    split: dict[nn.Module, DomainNorm] = {}  # a layer with two names stays one layer
    for name, norm in list(find_norms(model)):
        if not f"{name}.".startswith(str(model.head_prefix)):
            if norm not in split:
                split[norm] = DomainNorm(norm, ordered, switch)
            model.set_submodule(name, split[norm])


def switch_of(model: nn.Module) -> Switch:
    """Return the switch of a model that `split_norms` has changed."""
    return next(m.switch for m in model.modules() if isinstance(m, DomainNorm))


def copied_names(model: nn.Module) -> dict[str, str]:
    """Name the tensors of all copies, each with its name in a model without copies."""
    return {
        f"{name}.{domain}.{tensor}": f"{name}.{tensor}"
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, DomainNorm)
        for domain, norm in module.items()
        for tensor in norm.state_dict()
    }
