"""Labels of a batch in which every row has some: the others are marked as absent."""

from __future__ import annotations

import torch
from torch import Tensor

from facekernels.data.labels import ATTRIBUTES
from facekernels.systems.swinface.losses import NOT_LABELLED

_GENDER = ATTRIBUTES.index("Gender")


def full_labels(
    count: int,
    *,
    identity: Tensor | None = None,
    age: Tensor | None = None,
    gender: Tensor | None = None,
    attributes: Tensor | None = None,
    expression: Tensor | None = None,
) -> dict[str, Tensor]:
    """All labels of `count` rows, as `MultiTaskLoss` takes them; what is None is absent.

    Args:
        count: B.
        identity: ``[B]`` persons.
        age: ``[B]`` years.
        gender: ``[B]`` 0 or 1, where the other attributes are not known.
        attributes: ``[B, 40]`` 0 or 1, in the order of `facekernels.data.labels.ATTRIBUTES`.
        expression: ``[B]`` classes.
    """
    columns = torch.full((count, len(ATTRIBUTES)), NOT_LABELLED, dtype=torch.int8)
    if attributes is not None:
        columns = attributes.to(torch.int8)
    elif gender is not None:
        columns[:, _GENDER] = gender.to(torch.int8)
    absent = torch.full((count,), NOT_LABELLED)
    return {
        "identity": absent if identity is None else identity.long(),
        "age": torch.full((count,), torch.nan) if age is None else age.float(),
        "attributes": columns,
        "expression": absent if expression is None else expression.long(),
    }
