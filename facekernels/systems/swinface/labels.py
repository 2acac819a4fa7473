"""What SwinFace answers: 42 analysis tasks in 11 groups, and the embedding."""

from __future__ import annotations

from facekernels.data.labels import ATTRIBUTES, EXPRESSIONS

TASKS: tuple[str, ...] = ("Age", *ATTRIBUTES, "Expression")
"""The 42 analysis tasks in the order of the published outputs: Age first, Gender at 5."""

GROUPS: tuple[tuple[str, ...], ...] = (
    ("Gender",),
    ("Age", "Young"),
    ("Expression", "Smiling"),
    ("Attractive", "Blurry", "Chubby", "Heavy Makeup", "Oval Face", "Pale Skin"),
    ("Bald", "Bangs", "Black Hair", "Blond Hair", "Brown Hair", "Gray Hair", "Receding Hairline",
     "Straight Hair", "Wavy Hair", "Wearing Hat"),
    ("Arched Eyebrows", "Bags Under Eyes", "Bushy Eyebrows", "Eyeglasses", "Narrow Eyes"),
    ("Big Nose", "Pointy Nose"),
    ("High Cheekbones", "Rosy Cheeks", "Wearing Earrings", "Sideburns"),
    ("Five O'Clock Shadow", "Big Lips", "Mouth Slightly Open", "Mustache", "Wearing Lipstick",
     "No Beard"),
    ("Double Chin", "Goatee"),
    ("Wearing Necklace", "Wearing Necktie"),
)  # fmt: skip
"""Each group has an attention branch and a task-specific subnet of its own."""


def outputs(task: str) -> int:
    """Logits of a task: 1 for Age (years), 7 for Expression, else 2 (no, yes)."""
    return {"Age": 1, "Expression": len(EXPRESSIONS)}.get(task, 2)


def chosen_groups(tasks: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """`GROUPS` without the tasks that are not in `tasks`, and without empty groups.

    Raises:
        ValueError: a task that does not exist, or the same one twice.
    """
    unknown = [t for t in tasks if t not in TASKS]
    if unknown or len(set(tasks)) != len(tasks):
        raise ValueError(
            f"tasks must be different names of the 42 analysis tasks, got {', '.join(tasks)}"
        )
    kept = (tuple(t for t in group if t in tasks) for group in GROUPS)
    return tuple(group for group in kept if group)
