"""The procedural faces: same bits, exact labels, visible factors, learnable classes."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from facekernels.data import faces, imbalanced_counts
from facekernels.data.faces.canvas import Canvas
from facekernels.data.labels import ATTRIBUTES, EXPRESSIONS

STILL = faces.Settings(
    yaw=0, pitch=0, roll=0, shift=0, zoom=(1, 1), light=(0, 0), blurry=0, background="plain",
    accessories=0, mouth_open=0,
)  # fmt: skip
EVERYTHING = faces.Settings(
    occlusion=0.5, noise=0.1, resolutions=(8, 16, 64), blurry=0.3, ambiguity=0.5, asymmetry=0.3
)


def assert_same(first: object, second: object) -> None:
    for field in fields(first):  # type: ignore[arg-type]
        assert torch.equal(getattr(first, field.name), getattr(second, field.name)), field.name


def without_mole(p: faces.FaceParameters) -> faces.FaceParameters:
    column = list(faces.SHAPE).index("mole")
    return p.replace(shape=p.shape.index_fill(1, torch.tensor([column]), 0.0))


# Reproducibility.


def test_a_seed_gives_the_same_bits_and_another_seed_others() -> None:
    first = faces.make(6, 32, 5, EVERYTHING)
    assert_same(first, faces.make(6, 32, 5, EVERYTHING))
    assert not torch.equal(first.images, faces.make(6, 32, 6, EVERYTHING).images)


@pytest.mark.parametrize("size", [32, 48, 64])
def test_a_sample_does_not_depend_on_its_batch(size: int) -> None:
    large = faces.make(100, size, 3, EVERYTHING)
    assert_same(large[:10], faces.make(10, size, 3, EVERYTHING))
    assert_same(large[37:38], faces.make(1, size, 3, EVERYTHING, start=37))
    rows = torch.tensor([90, 2, 55])
    assert_same(large[rows], faces.render(faces.sample(100, 3, EVERYTHING)[rows], size))


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    many = faces.make(40, 64, 3, EVERYTHING)
    try:
        torch.set_num_threads(1)
        assert_same(many, faces.make(40, 64, 3, EVERYTHING))
    finally:
        torch.set_num_threads(threads)


def test_a_small_picture_is_the_average_of_a_large_one() -> None:
    p = faces.sample(32, 0, faces.Settings(blurry=0))
    small, middle, large = (faces.render(p, size) for size in (32, 64, 128))
    assert (avg_pool2d(large.images, 2) - middle.images).abs().mean() < 0.004
    assert (avg_pool2d(large.images, 4) - small.images).abs().mean() < 0.008
    # Against the pictures of other faces, as a scale.
    assert (small.images - small.images.roll(1, 0)).abs().mean() > 0.1
    # The centre of pixel 0 is at 0, at every size.
    scaled = (small.landmarks + 0.5) * 4 - 0.5
    torch.testing.assert_close(scaled, large.landmarks, atol=1e-3, rtol=0)
    assert (avg_pool2d(large.face_mask, 4) - small.face_mask).abs().mean() < 0.005


def test_identity_is_a_function_of_its_number() -> None:
    first = faces.sample(5, 0, identities=[1, 2, 3, 2, 1])
    second = faces.sample(5, 9, identities=[1, 2, 3, 2, 1])
    assert torch.equal(first.shape, second.shape)
    assert torch.equal(first.shape[0], first.shape[4])
    assert not torch.equal(first.shape[0], first.shape[1])
    other = faces.sample(5, 0, faces.Settings(identity_seed=1), identities=[1, 2, 3, 2, 1])
    assert not torch.isclose(first.shape, other.shape).any()


# Geometry.


def test_patches_hold_all_that_is_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing every part on the whole image gives the same bits. One face at a time: patches are
    as large as the largest of a batch needs.
    """
    ranges = {"age": (1, 100), "yaw": 45, "pitch": 30, "asymmetry": 1, "intensity": (1, 1.5)}
    settings = faces.Settings(**ranges, zoom=(0.6, 1.0), roll=5, blurry=0)
    men = torch.arange(90) < 45
    worn = ("Wearing Necktie", "Wearing Necklace", "Wearing Earrings", "Eyeglasses")
    grown = ("Mustache", "Goatee", "Bushy Eyebrows", "Arched Eyebrows")
    p = faces.sample(90, 11, settings)
    p = faces.set_attributes(p, {"Gender": men, "Bangs": False, **dict.fromkeys(grown[2:], True)})
    p = faces.set_attributes(p, {**dict.fromkeys(worn, True), **dict.fromkeys(grown[:2], men)})
    single = torch.cat([faces.render(p[i : i + 1], 64).images for i in range(len(p))])
    monkeypatch.setattr(Canvas, "patch", lambda self, *_: self.whole())
    whole = faces.render(p, 64).images
    differs = (single != whole).flatten(1).any(1)
    assert not differs.any(), differs.nonzero()[:, 0].tolist()


@pytest.mark.parametrize("size", [32, 64, 100])
def test_a_frontal_face_is_symmetric(size: int) -> None:
    p = without_mole(faces.sample(32, 1, STILL))
    batch = faces.render(p, size)
    torch.testing.assert_close(batch.images, batch.images.flip(3), atol=1e-4, rtol=0)
    names = list(faces.LANDMARKS)
    swapped = [
        names.index(name.replace("left", "#").replace("right", "left").replace("#", "right"))
        for name in names
    ]
    mirrored = batch.landmarks[:, swapped] * torch.tensor([-1, 1]) + torch.tensor([size - 1, 0])
    torch.testing.assert_close(batch.landmarks, mirrored, atol=1e-3, rtol=0)


def test_asymmetry_is_seen() -> None:
    settings = faces.Settings(**{**vars(STILL), "asymmetry": 0.8})
    images = faces.render(without_mole(faces.sample(16, 1, settings, expressions=3)), 64).images
    assert ((images - images.flip(3)).abs().amax((1, 2, 3)) > 0.1).float().mean() > 0.8


def at(images: Tensor, points: Tensor) -> Tensor:
    """Colour ``[n, 3]`` at the pixel nearest to each point."""
    x, y = points.round().long().unbind(1)
    return images[torch.arange(len(images)), :, y, x]


@pytest.mark.parametrize("side", ["left", "right"])
def test_landmarks_lie_on_what_is_drawn(side: str) -> None:
    settings = faces.Settings(blurry=0, accessories=0, light=(0, 0), yaw=25, roll=40)
    p = faces.sample(48, 2, settings, expressions=0, ages=30.0, attributes={"Bangs": False})
    batch = faces.render(p, 128)
    point = {name: batch.landmarks[:, i] for i, name in enumerate(faces.LANDMARKS)}
    # The pupil is dark, the cheek below it is not.
    eye = point[f"eye_{side}"]
    assert (at(batch.images, eye).amax(1) < 0.15).all()
    # Half-way to the border of the wide-open eye it is white: along the line of its corners.
    white = at(batch.images, eye + 0.68 * (point[f"eye_{side}_outer"] - eye))
    assert (white.amin(1) > 0.6).float().mean() > 0.9
    # The jaw is where the mask of the face ends.
    jaw = point[f"jaw_{side}"]
    centre = point["nose_tip"]
    inner, outer = jaw + 0.1 * (centre - jaw), jaw - 0.1 * (centre - jaw)
    mask = batch.face_mask.expand(-1, 3, -1, -1)
    bare = p.has("Gender")  # long hair covers the jaw
    assert (at(mask, inner)[bare, 0] > 0.9).float().mean() > 0.9
    assert (at(mask, outer)[bare, 0] < 0.1).all()


def test_brow_landmarks_are_dark() -> None:
    p = faces.sample(32, 3, STILL, ages=25.0, attributes={
        "Bangs": False, "Black Hair": True, "Bushy Eyebrows": True, "Pale Skin": True})  # fmt: skip
    batch = faces.render(p, 128)
    for name in ("brow_left_middle", "brow_right_middle"):
        brow = at(batch.images, batch.landmarks[:, faces.LANDMARKS.index(name)])
        assert (brow.mean(1) < 0.35).all(), name


def test_a_dropped_jaw_moves_chin_and_lip_down_and_a_smile_the_corners_up() -> None:
    quiet = faces.sample(8, 1, STILL, range(8), 6, 30.0)
    open_, happy = (faces.sample(8, 1, STILL, range(8), e, 30.0, intensities=1.0) for e in (0, 3))
    rest, wide, smile = (faces.render(p, 64).landmarks for p in (quiet, open_, happy))
    for name in ("chin", "lip_bottom"):
        i = faces.LANDMARKS.index(name)
        assert (wide[:, i, 1] - rest[:, i, 1] > 1.0).all()
    for i in (3, 4):
        assert (smile[:, i, 1] - rest[:, i, 1] < -0.5).all()


def test_pose_moves_the_nose_as_documented() -> None:
    base = torch.zeros(1, 3)
    nose = faces.LANDMARKS.index("nose_tip")

    def tip(yaw: float, pitch: float, roll: float) -> Tensor:
        pose = base + torch.tensor([yaw, pitch, roll])
        return faces.make(1, 64, 0, STILL, [1], poses=pose).landmarks[0, nose]

    assert tip(20, 0, 0)[0] > tip(0, 0, 0)[0] + 2
    assert tip(0, 20, 0)[1] < tip(0, 0, 0)[1] - 2
    eyes = faces.make(1, 64, 0, STILL, [1], poses=torch.tensor([[0.0, 0, 30]])).landmarks[0, :2]
    slope = (eyes[1] - eyes[0])[1] / (eyes[1] - eyes[0])[0]
    assert slope == pytest.approx(torch.tan(torch.tensor(torch.pi / 6)).item(), rel=1e-3)


def test_occlusion_mask_is_what_changed_and_hides_landmarks() -> None:
    p = faces.sample(24, 4, faces.Settings(occlusion=1.0, blurry=0))
    assert set(p.occluder.tolist()) == {1, 2, 3, 4}
    covered = faces.render(p, 64)
    bare = faces.render(p.replace(occluder=torch.zeros_like(p.occluder)), 64)
    changed = (covered.images - bare.images).abs().amax(1, keepdim=True)
    assert (changed[covered.occlusion_mask == 0] == 0).all()
    assert (changed[covered.occlusion_mask == 1] > 0).float().mean() > 0.9
    bar = p.occluder == 1
    assert not covered.visibility[bar][:, :2].any()
    assert bare.visibility[bar][:, :2].all()
    assert not bare.occlusion_mask.any()


# Attributes.

# Rows, as shares of the image, in which an attribute changes pixels; the others act on the whole.
BROWS, EYES, CHEEKS, JAW = (0.22, 0.42), (0.3, 0.6), (0.4, 0.85), (0.4, 0.95)
WHERE = {
    "Arched Eyebrows": BROWS, "Bushy Eyebrows": BROWS, "Bags Under Eyes": EYES, "Eyeglasses": EYES,
    "Narrow Eyes": EYES, "Heavy Makeup": (0.25, 0.7), "Attractive": CHEEKS, "Rosy Cheeks": CHEEKS,
    "High Cheekbones": CHEEKS, "Big Nose": CHEEKS, "Pointy Nose": CHEEKS, "Smiling": CHEEKS,
    "Mouth Slightly Open": CHEEKS, "Big Lips": CHEEKS, "Wearing Lipstick": CHEEKS,
    "Mustache": CHEEKS, "Wearing Earrings": (0.5, 0.65), "No Beard": JAW, "Goatee": (0.6, 0.95),
    "Five O'Clock Shadow": JAW, "Double Chin": (0.7, 1.0), "Wearing Necklace": (0.8, 1.0),
    "Wearing Necktie": (0.8, 1.0), "Wearing Hat": (0.0, 0.45), "Bangs": (0.15, 0.5),
    "Receding Hairline": (0.05, 0.55), "Sideburns": (0.3, 0.7), "Bald": (0.0, 0.65),
}  # fmt: skip
MEN = ("Bald", "Receding Hairline", "Sideburns", "Mustache", "Goatee", "Five O'Clock Shadow",
       "No Beard", "Wearing Necktie")  # fmt: skip


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_changes_its_part_of_the_picture(name: str) -> None:
    p = faces.sample(24, 8, STILL, expressions=6, ages=35.0)
    p = faces.set_attributes(p, {
        "Gender": name in MEN, "Gray Hair": True, "Receding Hairline": False, "Bangs": False,
        "Wavy Hair": False, "Mustache": False, "No Beard": True,
    })  # fmt: skip
    without, with_ = (faces.set_attribute(p, name, value) for value in (False, True))
    assert with_.has(name).all()
    assert not without.has(name).any()
    change = (faces.render(with_, 64).images - faces.render(without, 64).images).abs().amax(1)
    # In pixels that turn from black to white.
    assert change.sum((1, 2)).min() > 1.5
    assert change.sum((1, 2)).median() > 3
    first, last = (round(64 * share) for share in WHERE.get(name, (0.0, 1.0)))
    outside = torch.cat([change[:, :first], change[:, last:]], 1)
    assert (outside < 0.02).all()


@pytest.mark.parametrize("age", [(3.0, 12.0), (20.0, 50.0), (50.0, 95.0)])
def test_attributes_are_consistent(age: tuple[float, float]) -> None:
    p = faces.sample(4000, 1, faces.Settings(age=age))
    has = {name: p.has(name) for name in ATTRIBUTES}
    hair = sum(has[f"{colour} Hair"].int() for colour in ("Black", "Blond", "Brown", "Gray"))
    assert (hair <= 1).all()
    assert not (has["Straight Hair"] & has["Wavy Hair"]).any()
    for name in ("Bangs", "Black Hair", "Wavy Hair", "Receding Hairline"):
        assert not (has["Bald"] & has[name]).any()
    beard = has["Goatee"] | has["Five O'Clock Shadow"]
    assert not (beard & has["No Beard"]).any()
    for name in ("Mustache", "Goatee", "Sideburns", "Bald", "Wearing Necktie"):
        assert not (has[name] & (~has["Gender"] | (p.age < 18))).any(), name
    assert torch.equal(has["Young"], p.age < 40)
    muscles = p.activations.mean(1)
    assert torch.equal(has["Smiling"], muscles[:, faces.UNITS.index("AU12")] >= 0.3)
    if age[0] == 20.0:
        share = p.attributes.float().mean(0)
        rare = [n for n, s in zip(ATTRIBUTES, share, strict=True) if not 0.005 < s < 0.99]
        assert not rare
        happy = has["Smiling"].float()[p.expression == 3].mean()
        assert happy > 0.95 > 0.2 > has["Smiling"].float()[p.expression == 5].mean()


def test_hair_greys_and_thins_only_forwards() -> None:
    years = torch.arange(20.0, 90.0, 10)
    identity = torch.arange(300).repeat_interleave(len(years))
    p = faces.sample(len(identity), 0, identities=identity, ages=years.repeat(300))
    for name in ("Gray Hair", "Bald"):
        has = p.has(name).view(300, -1).int()
        lost = has[:, :-1] > has[:, 1:]
        if name == "Gray Hair":
            lost &= ~p.has("Bald").view(300, -1)[:, 1:]
        assert not lost.any()
        assert has[:, -1].sum() > has[:, 2].sum()


def test_setting_one_attribute_sets_what_follows() -> None:
    p = faces.sample(64, 1)
    assert (faces.set_attribute(p, "Young", True).age < 40).all()
    assert not faces.set_attribute(p, "Gender", False).has("Mustache").any()
    blond = faces.set_attribute(p, "Blond Hair", True)
    assert not blond.has("Black Hair").any()
    assert not blond.has("Bald").any()
    half = torch.arange(64) < 32
    hats = faces.set_attribute(p, "Wearing Hat", half)
    assert torch.equal(hats.has("Wearing Hat"), half)
    with pytest.raises(ValueError, match="contradict"):
        faces.set_attributes(p, {"Blond Hair": True, "Black Hair": True})


# Factors.


def test_expressions_can_be_learned_from_pixels() -> None:
    """By a linear classifier, across persons, ages and light."""
    assert accuracy(faces.Settings(yaw=8, pitch=5, roll=4, blurry=0, shift=0.01)) > 0.55


def test_ambiguity_lowers_separability() -> None:
    clear, mixed = (
        accuracy(faces.Settings(yaw=0, pitch=0, roll=0, blurry=0, shift=0, ambiguity=share))
        for share in (0.0, 1.0)
    )
    assert clear - mixed > 0.2


def accuracy(settings: faces.Settings) -> float:
    """Of ridge regression on 32 x 32 grey pixels, trained and tested on different persons."""
    train, test = (faces.make(n, 32, seed, settings) for n, seed in ((1800, 0), (400, 1)))

    def features(batch: faces.FaceBatch) -> Tensor:
        grey = batch.images.mean(1).flatten(1).double()
        grey = (grey - grey.mean(1, keepdim=True)) / grey.std(1, keepdim=True)
        return torch.cat([grey, torch.ones(len(grey), 1, dtype=torch.float64)], 1)

    x, y = features(train), torch.nn.functional.one_hot(train.expression, 7).double()
    gram = x.T @ x
    weights = torch.linalg.solve(gram + 30 * torch.eye(len(gram), dtype=torch.float64), x.T @ y)
    return float(((features(test) @ weights).argmax(1) == test.expression).double().mean())


def test_full_ambiguity_makes_neighbours_the_same_distribution() -> None:
    settings = faces.Settings(ambiguity=1.0)
    n = 4000
    first, second = (faces.sample(n, s, settings, expressions=e) for s, e in ((0, 0), (1, 1)))
    means = [p.activations.mean((0, 1)) for p in (first, second)]
    assert (means[0] - means[1]).abs().max() < 0.05
    assert (first.expression == 0).all()


def test_identities_can_be_verified() -> None:
    """Pictures of one person are closer than those of two, in 16 x 16 pixels around the face."""
    settings = faces.Settings(yaw=5, pitch=4, roll=3, shift=0.01, accessories=0, blurry=0)
    identity = torch.arange(40).repeat(4)
    images = avg_pool2d(faces.make(160, 64, 0, settings, identity).images, 4)
    x = images[:, :, 2:14, 4:12].flatten(1)
    distance = torch.cdist(x, x).fill_diagonal_(torch.inf)
    assert (identity[distance.argmin(1)] == identity).float().mean() > 0.7


def test_age_is_seen() -> None:
    """Persons at 25 and 70 differ where wrinkles are, much more than at 25 and 26."""
    young, again, old = (
        faces.make(16, 96, 1, STILL, range(16), 6, age).images for age in (25.0, 26.0, 70.0)
    )
    middle = (slice(None), slice(None), slice(30, 80), slice(28, 68))
    assert (young - old)[middle].abs().mean() > 5 * (young - again)[middle].abs().mean()


def test_blur_resolution_and_noise() -> None:
    p = faces.sample(8, 0, STILL)
    sharp = faces.render(p, 64).images

    def roughness(images: Tensor) -> Tensor:
        return (images[..., 1:] - images[..., :-1]).abs().mean((1, 2, 3))

    blurred = faces.render(p.replace(blur=torch.full((8,), 0.03)), 64).images
    low = faces.render(p.replace(resolution=torch.full((8,), 12)), 64).images
    noisy = faces.render(p.replace(noise=torch.full((8,), 0.05)), 64).images
    assert (roughness(blurred) < 0.7 * roughness(sharp)).all()
    assert (roughness(low) < 0.8 * roughness(sharp)).all()
    difference = noisy - sharp
    inside = (sharp > 0.2) & (sharp < 0.8)
    assert difference[inside].std() == pytest.approx(0.05, rel=0.05)
    torch.testing.assert_close(blurred.mean((2, 3)), sharp.mean((2, 3)), atol=0.01, rtol=0)


# Interface.


def test_make_and_dataset_give_what_render_gives() -> None:
    p = faces.sample(9, 4)
    batch = faces.render(p, 32)
    made = faces.make(9, 32, 4, uint8=True)
    assert made.images.dtype == torch.uint8
    assert (made.images.float() / 255 - batch.images).abs().max() <= 0.5 / 255 + 1e-6
    data = faces.FaceDataset(p, 32)
    assert len(data) == 9
    items = data.__getitems__([3, 8])
    for name, value in vars(batch).items():
        assert torch.equal(items[0][name], value[3]), name
        assert torch.equal(data[8][name], value[8]), name
    assert len(list(torch.utils.data.DataLoader(data, batch_size=4))) == 3
    with pytest.raises(IndexError, match="index 9"):
        data[9]


def test_no_faces() -> None:
    assert faces.make(0, 32).images.shape == (0, 3, 32, 32)


def test_images_lie_in_range() -> None:
    batch = faces.make(64, 32, 7, EVERYTHING)
    for value in (batch.images, batch.face_mask, batch.occlusion_mask):
        assert value.min() >= 0
        assert value.max() <= 1
    assert torch.equal(batch.gender.bool(), batch.attributes[:, ATTRIBUTES.index("Gender")])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": -1}, ValueError, "n and start must be at least 0, got -1"),
        ({"n": 2.5}, TypeError, r"n must be an integer, got 2.5 \(float\)"),
        ({"settings": 3}, TypeError, "settings must be a faces.Settings, got int"),
        ({"expressions": 7}, ValueError, r"expressions must be 0 .. 6, got 7 .. 7"),
        (
            {"expressions": [0, 1]},
            ValueError,
            r"expressions must be \[n\] = \(3\), got shape \(2\)",
        ),
        ({"expressions": 0.5}, TypeError, "expressions must hold integers, got torch.float32"),
        ({"identities": [-1, 0, 1]}, ValueError, "identities must be at least 0"),
        ({"ages": 130}, ValueError, r"ages must lie within \[0, 120\], got 130"),
        ({"ages": float("nan")}, ValueError, "ages must lie within"),
        ({"intensities": 2}, ValueError, "intensities must lie within"),
        ({"poses": torch.zeros(3)}, ValueError, r"poses must be \[n, 3\]"),
        ({"poses": torch.full((3, 3), 70.0)}, ValueError, "poses must lie within 60, 40 and 180"),
        ({"attributes": {"Beard": True}}, ValueError, "attributes must be one of"),
        ({"attributes": {"Bald": 1}}, TypeError, "attribute 'Bald' must be a bool"),
        ({"attributes": {"Young": True}, "ages": 20}, ValueError, "it follows from them"),
    ],
)
def test_sample_refuses(arguments: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        faces.sample(**{"n": 3, **arguments})


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("ambiguity", 1.5, ValueError, r"settings.ambiguity must lie within \[0, 1\], got 1.5"),
        ("yaw", 90, ValueError, "settings.yaw must lie within"),
        ("age", (50, 20), ValueError, "settings.age must be"),
        ("age", 30, TypeError, r"settings.age must be a pair"),
        ("background", "sky", ValueError, "settings.background must be one of 'varied', 'plain'"),
        ("occluders", ("scarf",), ValueError, "settings.occluders must be one of"),
        ("occluders", (), TypeError, "settings.occluders must be a tuple of names"),
        ("identities", 0, ValueError, "settings.identities must be at least 1"),
        ("resolutions", (1,), ValueError, "settings.resolutions must be at least 2"),
        ("noise", "much", TypeError, "settings.noise must be a number"),
    ],
)
def test_settings_refuse(field: str, value: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        faces.Settings(**{field: value})


def test_render_refuses() -> None:
    with pytest.raises(ValueError, match="size must be at least 8, got 4"):
        faces.make(1, 4)
    with pytest.raises(TypeError, match=r"p must be a faces\.FaceParameters"):
        faces.render(3)  # type: ignore[arg-type]


def test_imbalanced_counts() -> None:
    assert imbalanced_counts(500, 3, 100) == [500, 50, 5]
    assert imbalanced_counts(100, 7, 1) == [100] * 7
    counts = imbalanced_counts(1000, len(EXPRESSIONS), 50)
    assert (counts[0], counts[-1]) == (1000, 20)
    assert counts == sorted(counts, reverse=True)
    assert imbalanced_counts(2, 4, 100)[-1] == 1
    for bad in ({"n_max": 0}, {"classes": 0}, {"factor": 0.5}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be at least 1"):
            imbalanced_counts(**{"n_max": 10, "classes": 3, "factor": 2.0, **bad})
