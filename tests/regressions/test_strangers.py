"""Files from a stranger are data: no code of theirs runs, and no file of the user's is lost."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from segmentation.checkpoints import load_task, read_checkpoint
from segmentation.errors import UserError
from segmentation.predict.export import save_for_inference
from tests.predict.predicting import CONFIG, make_checkpoint
from tests.regressions.conftest import Result, write_pairs

ARGS = CONFIG["init_args"]
UNET = "segmentation.models.UNet"
SMP = "segmentation_models_pytorch.Unet"
NOTHING_ELSE = "; a checkpoint may name nothing else"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each mapping with a ``class_path``."""
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield path
        for key, inner in value.items():
            yield from places(inner, (*path, key))


@pytest.fixture
def altered(tmp_path: Path) -> Callable[..., Path]:
    """A checkpoint whose value at a path of keys is another one."""
    good = torch.load(make_checkpoint(tmp_path / "good.ckpt"))
    config = good["segmentation"]["config"]["init_args"]
    schedule = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1}}
    config |= {"lr_scheduler": schedule, "schedule": {"interval": "epoch"}}

    def write(path: tuple[Any, ...], value: Any, name: str = "evil.ckpt") -> Path:
        content = copy.deepcopy(good)
        node = content
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


NET = ("segmentation", "config", "init_args", "net")
RUNS = {"class_path": "os.system", "init_args": {"command": "touch ran"}}


def test_no_place_of_the_config_may_name_a_function(
    altered: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = torch.load(altered(("epoch",), 0, "whole.ckpt"))
    found = [*places(whole)]
    assert len(found) == 6  # the task and its parts
    for path in found:
        file = altered(path, RUNS)
        for read in (read_checkpoint, load_task):
            with pytest.raises(UserError, match=r"evil\.ckpt: model.* names os\.system, which"):
                read(file)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "--ckpt_path=F", "--data.images=data/images", "--output=out"],
        ["predict", "--ckpt_path", "good.ckpt", "F", "--data.images=data/images", "--output=out"],
        ["serve", "--ckpt_path=F"],
        ["export", "--ckpt_path=F", "--output=out.ckpt"],
        ["card", "--ckpt_path=F"],
        ["tune", "--config=folder", "--data.root=data", "--ckpt_path=F"],
        ["prune", "--config=folder", "--data.root=data", "--ckpt_path=F", "--output=out.ckpt"],
        ["test", "--config=folder", "--data.root=data", "--ckpt_path=F"],
        ["validate", "--config=folder", "--data.root=data", "--ckpt_path=F"],
        ["fit", "--config=folder", "--data.root=data", "--ckpt_path=F"],
        ["fit", "--config=folder", "--data.root=data", "--run.weights=F"],
        [
            *("test", "--config=folder", "--data.root=data", "--ckpt_path=good.ckpt"),
            *("--run.ensemble=[F]", "--data.split.test=2", "--data.split.val=2"),
        ],
    ],
    ids=" ".join,
)
def test_no_command_runs_what_a_checkpoint_names(
    command: list[str], run: Callable[..., Result], altered: Callable[..., Path]
) -> None:
    write_pairs(Path("data"), number=6)
    file = altered((*NET[:3], "optimizer"), RUNS)
    result = run(*(word.replace("F", str(file)) for word in command))
    assert result.status == 2 and not Path("ran").exists()
    assert "evil.ckpt: model.optimizer names os.system, which is no Optimizer class" in result.line


@pytest.mark.parametrize(
    "name",
    [
        "subprocess.Popen",
        "builtins.eval",
        "torch.hub.load",
        "torch.load",
        "torch.jit.load",
        "torch.utils.cpp_extension.load",
        "torch.nn.Parameter",
        "torch.nn.modules.module.torch.hub.load",
        "torchvision.datasets.MNIST",
        "torchvision.models.resnet18",
        "segmentation_models_pytorch.create_model",
        "segmentation.io.files.write_bytes",
        "segmentation.datasets.synthetic.write_folder",
        "segmentation.trust.os.system",
        "segmentation.targets.Foreground",  # another kind than a network
        "tests.predict.predicting.make_checkpoint",  # of a package that is trusted
        "tests.predict.predicting.torch.hub.load",
    ],
)
def test_a_network_is_a_class_of_networks(name: str, altered: Callable[..., Path]) -> None:
    for value in ({"class_path": name}, name, f" '{name}'", [name], {"class_path": UNET, name: 1}):
        if value == {"class_path": UNET, name: 1}:
            value = {"class_path": UNET, "init_args": {"dropout": [{"class_path": name}]}}
            if name == "segmentation.targets.Foreground":
                continue  # it might stand there
        with pytest.raises(UserError, match=rf"names {name}, which is no .* class{NOTHING_ELSE}"):
            read_checkpoint(altered(NET, value))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("{class_path: os.system}", "model.net names '{class_path: os.system}', a config"),
        ('{"class\\x5fpath": "os.system"}', "a config or a network from elsewhere"),
        ("x: &a [b]\ny: [*a, *a]", "a config or a network from elsewhere"),
        ({"class_path": "Evil"}, "'Evil', which is the name of no class"),
        ({"class_path": ["os.system"]}, "which is the name of no class"),
        ({"init_args": {"class_path": "os.system"}}, "model.net names os.system"),
        ({"net.class_path": "os.system"}, "names os.system"),
        ({"class_path": UNET, "dict_kwargs": {"x": "os.system"}}, "names os.system"),
        ({"class_path": "unknown_package.Net"}, "names unknown_package.Net, whose code would run"),
        (
            {"class_path": SMP, "init_args": {"activation": "os.system"}},
            "model.net.activation names os.system",
        ),
        (
            {"class_path": SMP, "init_args": {"encoder_name": "tu-hf-hub:x/y"}},
            "model.net.encoder_name names 'tu-hf-hub:x/y', a config or a network from elsewhere",
        ),
        (torch.ones(3), "its config is none of this package's"),
    ],
)
def test_other_ways_to_name_a_function(value: Any, says: str, altered: Callable[..., Path]) -> None:
    with pytest.raises(UserError) as told:
        load_task(altered(NET, value))
    assert says in str(told.value)


def test_values_that_refer_to_each_other(altered: Callable[..., Path]) -> None:
    bomb: list[Any] = ["a"]
    for _ in range(40):
        bomb = [bomb, bomb]
    circle: list[Any] = []
    circle.append(circle)
    for value in (bomb, circle):
        with pytest.raises(UserError, match=r"evil\.ckpt: its config is none of this package's"):
            read_checkpoint(altered(NET, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("segmentation",), ["config"]),
        (("segmentation", 1), 2),
        (("state_dict",), [1]),
        (("state_dict", 1), torch.ones(1)),
        (("segmentation", "config"), ["a"]),
        (("segmentation", "config"), {"class_path": "segmentation.task.SegmentationTask"}),
        (("segmentation", "config", "init_args"), [1]),
        (("segmentation", "trained_on"), 5),
        (("state_dict", "net.body.weight"), 5),
    ],
)
def test_checkpoints_of_another_shape(
    path: tuple[Any, ...], value: Any, altered: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match=r"evil\.ckpt: "):
        load_task(altered(path, value))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (UNET, {"width": 20_000}),
        (UNET, {"depth": 50}),
        (UNET, {"depth": 10**9}),
        (UNET, {"classes": 10**6}),
        (UNET, {"in_channels": 10**12}),
        (UNET, {"convs_per_block": 10**9}),
        ("segmentation.models.UNetPlusPlus", {"depth": 10**9}),
        (SMP, {"encoder_name": "resnet18", "encoder_depth": 10**9}),
        (SMP, {"encoder_name": "resnet18", "decoder_channels": [10**5] * 5}),
        ("torch.nn.Linear", {"in_features": 10**5, "out_features": 10**5}),
        ("torchvision.models.ResNet", {"layers": [10**9] * 4}),
    ],
)
def test_sizes_are_looked_at_before_memory_is_taken(
    name: str, arguments: dict[str, Any], altered: Callable[..., Path]
) -> None:
    resource = pytest.importorskip("resource")
    if name == "torchvision.models.ResNet":
        arguments = {"block": "torchvision.models.resnet.BasicBlock", **arguments}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"evil\.ckpt: its (config asks|network cannot)"):
        load_task(altered(NET, {"class_path": name, "init_args": arguments}))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000  # kB


def test_what_prediction_does_not_need_is_not_built(altered: Callable[..., Path]) -> None:
    """A loss of a later version, or weights of its own, do not matter."""
    path = altered((*NET[:3], "loss"), {"class_path": "segmentation.losses.OfNextYear"})
    content = torch.load(path)
    content["state_dict"]["loss.pos_weight"] = torch.ones(1)
    save_for_inference(content, path)
    task = load_task(path)
    assert isinstance(task.loss, torch.nn.Identity)
    assert task.config == content["segmentation"]["config"]


def test_no_weights_are_fetched(
    altered: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", fetch)
    for more in ({}, {"dict_kwargs": {"checkpoint_path": "/etc/passwd"}}):
        net = {"class_path": SMP, "init_args": {"encoder_name": "tu-resnet18"}, **more}
        with pytest.raises(UserError, match="Missing key"):
            load_task(altered(NET, net))


def state(folder: Path, name: str, **more: Any) -> Path:
    """The record that an image is done, as ``predict`` keeps it."""
    path = folder / f".state/{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"image": name, "stem": name, "stamp": "x", "outputs": [], **more}
    path.write_text(json.dumps(record))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../thesis.docx",
        "thesis.docx",
        "masks/../../thesis.docx",
        "{root}/thesis.docx",
        "masks/link",
    ],
)
def test_a_record_of_a_prediction_names_no_other_files(
    name: str, run: Callable[..., Result], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "good.ckpt")
    write_pairs(Path("data"), number=1)
    for place in (Path(), Path("out")):
        (place / "thesis.docx").parent.mkdir(exist_ok=True)
        (place / "thesis.docx").write_text("mine")
    Path("out/masks").mkdir()
    Path("out/masks/link").symlink_to(tmp_path / "thesis.docx")
    state(Path("out"), "im0.png", outputs=[name.format(root=tmp_path)])
    result = run(
        *("predict", f"--ckpt_path={checkpoint}", "--data.images=data/images", "--output=out"),
        "--device=cpu",
    )
    assert result.status == 0 and Path("out/masks/im0.png").exists()
    assert {Path(place, "thesis.docx").read_text() for place in (".", "out")} == {"mine"}
    assert Path("out/masks/link").is_symlink()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{}",
        "[]",
        "null",
        '{"outputs": 5}',
        '{"outputs": [5]}',
        "\udcff",
        '{"a": NaN}',
    ],
)
def test_broken_records_and_manifests(
    text: str, run: Callable[..., Result], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "good.ckpt")
    write_pairs(Path("data"), number=1)
    data = text.encode(errors="surrogateescape")
    state(Path("out"), "im0.png").write_bytes(data)
    command = ["predict", f"--ckpt_path={checkpoint}", "--data.images=data/images", "--output=out"]
    assert run(*command, "--device=cpu").status == 0
    Path("out/manifest.json").write_bytes(data)
    result = run(*command, "--device=cpu")
    assert result.status == 2 and "manifest.json: cannot be read, or is no manifest" in result.line
    (tmp_path / "good.tuned.json").write_bytes(data)
    with pytest.raises(UserError, match=r"good\.tuned\.json: cannot be read"):
        load_task(checkpoint)


@pytest.mark.parametrize(
    "preprocess",
    [{"resize": [10**6, 10**6]}, {"crop": [10**6, 10**6]}, {"mean": [1] * 10**4}, {"gamma": "x"}],
)
def test_sizes_of_the_preparation(preprocess: Any, altered: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"evil\.ckpt: its network cannot be built again"):
        load_task(altered((*NET[:3], "preprocess"), preprocess))


def test_a_network_of_an_endless_stride(altered: Callable[..., Path]) -> None:
    """Images are padded to a multiple of it."""
    tiles = "segmentation.experiments.studies.GridTiles"
    net = {"class_path": tiles, "init_args": {"net": {"class_path": UNET}, "division": 10**6}}
    with pytest.raises(UserError, match="the network's stride is 16000000"):
        load_task(altered(NET, net))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("state_dict", "net.body.weight"), torch.ones(3)),
        (("segmentation", "preprocess"), 5),
        (("callbacks",), 5),
        (("loops",), 5),
    ],
)
def test_what_cannot_be_restored_is_one_line(
    path: tuple[Any, ...], value: Any, run: Callable[..., Result], altered: Callable[..., Path]
) -> None:
    write_pairs(Path("data"), number=6)
    whole = {"epoch": 1, "global_step": 1, "pytorch-lightning_version": "2.5.0"}
    content = torch.load(altered(path, value)) | whole
    torch.save(content, "evil.ckpt")
    result = run(
        *("test", "--config=data/folder", "--data.root=data", "--ckpt_path=evil.ckpt"),
        *("--data.split.test=2", "--data.split.val=2", "--run.wandb=off", "--data.num_workers=0"),
    )
    assert result.status == 2 and "evil.ckpt: does not fit this config (" in result.line
