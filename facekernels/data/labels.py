"""Names and orders of what face data sets label: expressions, and the 40 attributes of CelebA."""

from __future__ import annotations

EXPRESSIONS: tuple[str, ...] = (
    "Surprise", "Fear", "Disgust", "Happy", "Sad", "Anger", "Neutral",
)  # fmt: skip
"""The seven classes in RAF-DB's order, which is 1 to 7 in its label file and 0 to 6 here."""

CELEBA_ATTRIBUTES: tuple[str, ...] = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs",
    "Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows",
    "Chubby", "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones",
    "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin",
    "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair",
    "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace",
    "Wearing_Necktie", "Young",
)  # fmt: skip
"""The columns of `list_attr_celeba.txt`, in its order (alphabetic)."""

ATTRIBUTES: tuple[str, ...] = (
    "Attractive", "Blurry", "Chubby", "Heavy Makeup", "Gender", "Oval Face", "Pale Skin", "Smiling",
    "Young", "Bald", "Bangs", "Black Hair", "Blond Hair", "Brown Hair", "Gray Hair",
    "Receding Hairline", "Straight Hair", "Wavy Hair", "Wearing Hat", "Arched Eyebrows",
    "Bags Under Eyes", "Bushy Eyebrows", "Eyeglasses", "Narrow Eyes", "Big Nose", "Pointy Nose",
    "High Cheekbones", "Rosy Cheeks", "Wearing Earrings", "Sideburns", "Five O'Clock Shadow",
    "Big Lips", "Mouth Slightly Open", "Mustache", "Wearing Lipstick", "No Beard", "Double Chin",
    "Goatee", "Wearing Necklace", "Wearing Necktie",
)  # fmt: skip
"""The same 40 in the order of SwinFace's outputs. "Gender" is CelebA's "Male": 1 is male."""

_PUBLISHED_NAMES = {"Gender": "Male", "Five O'Clock Shadow": "5_o_Clock_Shadow"}

CELEBA_COLUMNS: tuple[int, ...] = tuple(
    CELEBA_ATTRIBUTES.index(_PUBLISHED_NAMES.get(name, name.replace(" ", "_")))
    for name in ATTRIBUTES
)
"""`celeba_row[CELEBA_COLUMNS[i]]` is `ATTRIBUTES[i]`."""
