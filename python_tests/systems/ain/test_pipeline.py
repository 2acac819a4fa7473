"""Steps in files, several processes, saved clusterers and the command."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

pytest.importorskip("lightning")

from facekernels import ops
from facekernels.cli import main
from facekernels.data.stages import StageWarning
from facekernels.systems.ain.linkage import (
    FaceClusterer,
    LinkageGCN,
    Pipeline,
    sharded_knn_graph,
    synthetic_identities,
)
from facekernels.systems.ain.linkage import pipeline as pipeline_module

HOPS, LINKS = (10, 3), 3


@pytest.fixture(scope="module")
def faces() -> tuple[np.ndarray, np.ndarray]:
    x, y = synthetic_identities(50, 12, 24, noise=(0.5, 1.0), seed=3)
    return 3 * x.numpy(), y.numpy()


def network() -> LinkageGCN:
    torch.manual_seed(0)
    return LinkageGCN(24, channels=(16, 16, 8, 8)).eval()


@pytest.mark.parametrize("whole", [50_000, 200], ids=["one part", "parts"])
def test_steps_in_files_change_nothing(
    faces: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    whole: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline_module, "_WHOLE", whole)
    told: list[tuple[str, int, int]] = []
    for folder in (None, tmp_path, tmp_path):
        told.clear()
        pipeline = Pipeline(faces[0], folder, lambda *step: told.append(step))
        graph = pipeline.graph(12)
        links = pipeline.link_scores(graph, network(), HOPS, LINKS)
        if folder is None:
            first, first_links = graph, links
        assert torch.equal(graph.idx, first.idx)
        assert torch.equal(graph.sim, first.sim)
        assert torch.equal(links.scores, first_links.scores)
        assert torch.equal(links.neighbors, graph.idx[:, :10].sort(1).values)
    assert ("links", 1, 2) not in told  # the third run found them
    want = ops.knn_graph(torch.from_numpy(faces[0]), 12)
    assert torch.equal(first.idx, want.idx)


def test_interrupted_steps_go_on(
    faces: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "_WHOLE", 200)  # parts of about 50 faces
    calls: list[tuple[int, int]] = []
    search = pipeline_module.knn_graph

    def interrupted(x: torch.Tensor, k: int, *, rows: tuple[int, int]) -> ops.KNNGraph:
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(rows)
        return search(x, k, rows=rows)

    monkeypatch.setattr(pipeline_module, "knn_graph", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Pipeline(faces[0], tmp_path).graph(12)
    monkeypatch.setattr(
        pipeline_module,
        "knn_graph",
        lambda x, k, rows: calls.append(rows) or search(x, k, rows=rows),
    )
    graph = Pipeline(faces[0], tmp_path).graph(12)
    assert len(calls) == 12
    assert sorted(calls) == calls
    assert torch.equal(graph.idx, search(torch.from_numpy(faces[0]), 12).idx)


def test_other_features_or_a_damaged_file_are_noticed(
    faces: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    before = Pipeline(faces[0], tmp_path).graph(12)
    other = faces[0][::-1].copy()
    with pytest.warns(StageWarning, match="input features was"):
        assert not torch.equal(Pipeline(other, tmp_path).graph(12).idx, before.idx)
    path = tmp_path / "knn.idx.npy"
    damaged = bytearray(path.read_bytes())
    damaged[-9] ^= 1
    path.write_bytes(damaged)
    with pytest.warns(StageWarning, match=r"knn\.idx\.npy is damaged"):
        again = Pipeline(other, tmp_path).graph(12)
    assert torch.equal(again.idx, ops.knn_graph(torch.from_numpy(other), 12).idx)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], r"features must be \[N, D\] floating point"),
        (lambda x: x.astype(np.int32), "floating point, got .* int32"),
        (lambda x: x * (np.arange(len(x)) != 7)[:, None], "row 7 is zero"),
        (lambda x: np.where(np.arange(len(x))[:, None] == 4, np.nan, x), "row 4 is not finite"),
    ],
)
def test_bad_features(faces: tuple[np.ndarray, np.ndarray], change: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pipeline(change(faces[0]))  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_dtypes(faces: tuple[np.ndarray, np.ndarray], dtype: type) -> None:
    features = faces[0].astype(dtype)
    graph = Pipeline(features).graph(5)
    unit = torch.nn.functional.normalize(torch.from_numpy(features.astype(np.float64)))
    torch.testing.assert_close(
        graph.sim, (unit.unsqueeze(1) * unit[graph.idx]).sum(2).float(), rtol=0, atol=1e-6
    )


def _worker(rank: int, size: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=size)
    try:
        x, _ = synthetic_identities(25, 7, 12, seed=5)
        got = sharded_knn_graph(x, 6)
        torch.save(tuple(got), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_several_processes_give_the_graph_of_one(tmp_path: Path) -> None:
    """175 rows over three processes: the shares differ by one row."""
    mp.spawn(_worker, (3, str(tmp_path)), nprocs=3)
    x, _ = synthetic_identities(25, 7, 12, seed=5)
    want = sharded_knn_graph(x, 6)
    assert torch.equal(want.idx, ops.knn_graph(x, 6).idx)
    for rank in range(3):
        idx, sim = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(idx, want.idx)
        assert torch.equal(sim, want.sim)


def test_saved_clusterer(faces: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    model = FaceClusterer(12, HOPS, LINKS, max_size=14, epochs=1, channels=(16, 16, 8, 8))
    model.fit(*faces)
    model.save(tmp_path / "model.pt")
    loaded = FaceClusterer.load(tmp_path / "model.pt")
    assert loaded.get_params() == model.get_params()
    assert (loaded.predict(faces[0]) == model.labels_).all()
    with pytest.raises(ValueError, match="must have 24 columns as in fit, got 20"):
        loaded.cluster_with(Pipeline(faces[0][:, :20]))
    torch.save({"format": "else"}, tmp_path / "else.pt")
    with pytest.raises(ValueError, match=r"else\.pt is not a 'facekernels FaceClusterer 1'"):
        FaceClusterer.load(tmp_path / "else.pt")
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    for change, message in (
        ({"model": None, "params": None}, r"wrong\.pt lacks model, params of a"),
        ({"params": {**saved["params"], "hops": 3}}, r"wrong\.pt cannot be used .*'hops'"),
        ({"params": {**saved["params"], "channels": None}}, r"wrong\.pt cannot be used"),
        ({"model": {}}, r"does not fit LinkageGCN: bn0\.running_mean"),
        ({"model": 3}, r"wrong\.pt cannot be used"),
        ({"features": 20}, r"conv1\.weight \(48, 16\) instead of \(40, 16\)"),
        ({"features": "many"}, r"wrong\.pt cannot be used"),
    ):
        wrong = {k: v for k, v in {**saved, **change}.items() if v is not None}
        torch.save(wrong, tmp_path / "wrong.pt")
        with pytest.raises(ValueError, match=message):
            FaceClusterer.load(tmp_path / "wrong.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "model.pt").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"half\.pt cannot be read"):
        FaceClusterer.load(tmp_path / "half.pt")


@pytest.mark.filterwarnings("ignore:the linkage network predicts")  # after one epoch
def test_command(
    faces: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features, ids = tmp_path / "faces.npy", tmp_path / "ids.meta"
    np.save(features, faces[0])
    ids.write_text("".join(f"{i}\n" for i in faces[1]))
    out, page = tmp_path / "labels.npy", tmp_path / "page"
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((len(faces[0]), 8, 8)))
    code = main(
        ["cluster", str(features), "--out", str(out), "--labels", str(ids), "--threshold", "0.45",
         "--k", "20", "--method", "whispers", "--work", str(tmp_path / "work"),
         "--report", str(page), "--images", str(tmp_path / "images.npy")]
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert code == 0
    assert "600 faces of 24 features" in printed
    assert "pairwise: precision" in printed
    labels = np.load(out)
    assert len(labels) == 600
    html = (page / "index.html").read_text()
    assert html.count("<svg") == 2
    assert html.count("<img") > 20
    assert not any(f'{attribute}="http' in html for attribute in ("src", "href"))

    model = tmp_path / "model.pt"
    fit = ["cluster", str(features), "--labels", str(ids), "--fit", str(model), "--epochs", "1"]
    assert main([*fit, "--k", "10"]) == 0
    assert main(["cluster", str(features), "--out", str(out), "--model", str(model)]) == 0
    assert "clusters: largest" in capsys.readouterr().out


def test_command_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", str(tmp_path / "none.npy"), "--out", "x.npy"]) == 2
    assert "none.npy" in capsys.readouterr().err
    features = tmp_path / "f.npy"
    np.save(features, np.ones((4, 3), np.float32))
    (tmp_path / "ids.txt").write_text("1\n2\n")
    arguments = ["cluster", str(features), "--out", str(tmp_path / "o.npy")]
    assert main([*arguments, "--labels", str(tmp_path / "ids.txt")]) == 2
    assert "has 2 labels for 4 features" in capsys.readouterr().err
    work = tmp_path / "work"
    assert main([*arguments, "--method", "dbscan", "--threshold", "5", "--work", str(work)]) == 2
    assert "threshold must be a similarity in [-1, 1], got 5.0" in capsys.readouterr().err
    assert not work.exists()  # nothing has been searched
    for wrong in (
        arguments[:2],
        [*arguments[:2], "--fit", "m.pt"],
        [*arguments, "--method", "linkage"],
    ):
        with pytest.raises(SystemExit):
            main(wrong)
    assert "needs --model" in capsys.readouterr().err


def test_command_finds_wrong_paths_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*arguments: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr("facekernels.cli.cluster._cluster", work)
    monkeypatch.setattr("facekernels.cli.cluster._fit", work)
    np.save(tmp_path / "f.npy", np.eye(4, 3, dtype=np.float32) + 1)
    np.save(tmp_path / "few.npy", np.zeros((3, 2, 2)))
    np.save(tmp_path / "none.npy", np.zeros((0, 3), np.float32))
    np.savez(tmp_path / "images.npz", np.zeros((4, 2, 2)))
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "file").write_text("1\n" * 4)
    (tmp_path / "ids.txt").write_text("1\n" * 4)
    (tmp_path / "folder.npy").mkdir()
    monkeypatch.chdir(tmp_path)
    out, page = ["--out", "o.npy"], ["--report", "page"]
    for arguments, sentence in (
        (["--out", "o.csv"], "--out must end in one of .npy, .meta, .txt, got o.csv"),
        (["--out", "file/o.npy"], "--out must lie in a folder that can be written, got file/o.npy"),
        (["--out", "folder.npy"], "--out must be a file, got the folder folder.npy"),
        (["--fit", "file/m.pt", "--labels", "ids.txt"], "--fit must lie in a folder"),
        ([*out, "--report", "file/page"], "--report must lie in a folder"),
        ([*out, *page, "--images", "no.npy"], "--images must be an .npy file, got no.npy"),
        ([*out, *page, "--images", "empty.npy"], "--images must be an .npy file, got empty.npy"),
        ([*out, *page, "--images", "ids.txt"], "--images must be an .npy file, got ids.txt"),
        ([*out, *page, "--images", "few.npy"], "= (4, H, W), got (3, 2, 2) in few.npy"),
        ([*out, *page, "--images", "images.npz"], "= (4, H, W), got () in images.npz"),
    ):
        assert main(["cluster", "f.npy", *arguments]) == 2
        assert sentence in capsys.readouterr().err
    assert main(["cluster", "none.npy", *out]) == 2
    assert "none.npy must hold a face at least, got none" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["cluster", "f.npy", *out, "--images", "few.npy"])
    assert "--images needs --report" in capsys.readouterr().err
    with pytest.raises(AssertionError, match="the work has begun"):
        main(["cluster", "f.npy", "--out", "new/folder/o.npy"])


@pytest.mark.filterwarnings("ignore:the linkage network predicts")  # after one epoch
def test_command_with_few_faces(
    faces: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = FaceClusterer(12, HOPS, LINKS, max_size=14, epochs=1, channels=(16, 16, 8, 8))
    model.fit(*faces).save("model.pt")
    for count, pictures in ((1, (1, 1)), (2, (1, 2)), (3, (2, 2))):
        np.save("f.npy", faces[0][:count])
        np.save("images.npy", np.zeros((count, 4, 4)))
        Path("ids.txt").write_text("1\n" * count)
        for method, svgs in zip((["--model", "model.pt"], ["--method", "threshold"]), pictures,
                                strict=True):  # fmt: skip
            arguments = ["f.npy", "--out", "o.npy", "--report", "page", "--images", "images.npy"]
            assert main(["cluster", *arguments, "--labels", "ids.txt", *method]) == 0
            assert len(np.load("o.npy")) == count
            assert Path("page/index.html").read_text().count("<svg") == svgs
    np.save("f.npy", faces[0])
    np.save("ids.npy", faces[1])
    capsys.readouterr()
    fit = ["cluster", "f.npy", "--labels", "ids.npy", "--fit", "m.pt", "--epochs", "-3"]
    assert main(fit) == 2
    assert "epochs must be at least 1, got -3" in capsys.readouterr().err
    assert main(["cluster", "f.npy", "--out", "o.npy", "--k", "0", "--method", "threshold"]) == 2
    assert "k must be" in capsys.readouterr().err
