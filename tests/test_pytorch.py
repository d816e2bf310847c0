"""Trained models in: parity with PyTorch, every name accounted for, and no code of a pickle executed."""

import argparse
import collections
import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import models, storage
from bend_jax.checks import SettingsError
from bend_jax.data import augment
from bend_jax.models import pytorch
from tests.weight_files import Tensor, in_bfloat16, stream, tensors

SMALL = {"widths": (8, 16), "blocks": (1, 1)}


def shapes_of(module: Any) -> Any:
    """The variables' shapes for CIFAR images."""
    return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def torch_names(module: Any) -> dict[str, np.ndarray]:
    """Random variables of a backbone as PyTorch would name and lay them out."""
    rng = np.random.default_rng(0)
    tree = jax.tree.map(lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32), shapes_of(module))
    return pytorch.to_torch(pytorch.flat_names(tree))


def test_names_and_layouts_come_back() -> None:
    """to_torch and from_torch are inverses, for every leaf of ResNet-50 and RegNetY."""
    for name in ("resnet50", "regnety_400mf"):
        shapes = shapes_of(models.build(name, 10))
        tree = jax.tree.map(lambda x: np.arange(x.size, dtype=np.float32).reshape(x.shape), shapes)
        flat = pytorch.flat_names(tree)
        back = pytorch.from_torch(pytorch.to_torch(flat), shapes)
        assert set(back) == set(flat)
        for key, value in flat.items():
            np.testing.assert_array_equal(back[key], value)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("layer1.0.downsample.0.weight", "params.layer1.0.shortcut.0.kernel"),  # torchvision and timm
        ("layer2.0.downsample.1.running_var", "batch_stats.layer2.0.shortcut.1.var"),
        ("module.linear.bias", "params.fc.bias"),  # kuangliu, saved under DataParallel
        ("s4.b12.conv3.bn.weight", "params.layer4.11.bn3.scale"),  # timm's RegNets
        ("s1.b1.downsample.conv.weight", "params.layer1.0.shortcut.0.kernel"),
        ("s1.b1.se.fc2.bias", "params.layer1.0.se.se2.bias"),
        ("stem.conv.weight", "params.conv1.kernel"),
        ("head.fc.weight", "params.fc.kernel"),
        ("trunk_output.block4.block4-11.f.c.0.weight", "params.layer4.11.conv3.kernel"),  # torchvision's RegNets
        ("trunk_output.block1.block1-0.proj.1.bias", "params.layer1.0.shortcut.1.bias"),
        ("trunk_output.block1.block1-0.f.se.fc1.weight", "params.layer1.0.se.se1.kernel"),
        ("trunk_output.block1.block1-0.f.b.1.running_mean", "batch_stats.layer1.0.bn2.mean"),
        ("stem.1.weight", "params.bn1.scale"),
    ],
)
def test_the_names_of_other_libraries(theirs: str, ours: str) -> None:
    """Each library's spelling of a layer is ours."""
    shapes = shapes_of(models.build("regnety_400mf", 10))
    expected = pytorch.flat_names(shapes)[ours].shape
    value = np.zeros(expected, np.float32)
    if ours.endswith("kernel"):
        value = np.zeros(
            expected[::-1] if len(expected) == 2 else (expected[3], expected[2], *expected[:2]), np.float32
        )
    found = pytorch.from_torch({theirs: value, "bn1.num_batches_tracked": np.zeros((), np.int64)}, shapes)
    assert {name: x.shape for name, x in found.items()} == {ours: expected}


def test_safetensors_orbax_and_errors(tmp_path: Path) -> None:
    """A file restores exactly; missing, unexpected and misshapen names are all in the one error."""
    numpy_files = pytest.importorskip("safetensors.numpy")
    module = models.build("resnet18", 10, **SMALL)
    shapes, state = shapes_of(module), torch_names(module)
    numpy_files.save_file(state, tmp_path / "net.safetensors")
    variables = pytorch.load_init(tmp_path / "net.safetensors", shapes)
    np.testing.assert_array_equal(variables["params"]["fc"]["kernel"], state["fc.weight"].T)
    storage.save_tree(tmp_path / "tree", variables)
    again = pytorch.load_init(tmp_path / "tree", shapes)
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    broken = {**state, "extra.weight": np.zeros(3, np.float32), "fc.bias": np.zeros(7, np.float32)}
    del broken["conv1.weight"]
    numpy_files.save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(SettingsError) as error:
        pytorch.load_init(tmp_path / "broken.safetensors", shapes)
    text = str(error.value)
    assert "1 missing: params.conv1.kernel" in text
    assert "1 unexpected: params.extra.scale (extra.weight)" in text
    assert "1 of another shape: params.fc.bias [7], expected [10]" in text


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    """Before anything is computed."""
    numpy_files = pytest.importorskip("safetensors.numpy")
    numpy_files.save_file(torch_names(models.build("regnetx_400mf", 10)), tmp_path / "x.safetensors")
    with pytest.raises(SettingsError, match="does not fit the backbone"):
        pytorch.load_init(tmp_path / "x.safetensors", shapes_of(models.build("resnet18", 10)))


class Bomb:
    """A pickle of this makes a folder when it is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_in_it_is_refused_and_not_executed(tmp_path: Path) -> None:
    """The error names what it asked for."""
    target = tmp_path / "made"
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as file:
        file.writestr("net/data.pkl", pickle.dumps(collections.OrderedDict(a=Bomb(target))))
    with pytest.raises(SettingsError, match=r"mkdir, which is no part of a state dict: refused"):
        pytorch.load_init(tmp_path / "net.pth", shapes_of(models.build("resnet18", 10, **SMALL)))
    assert not target.exists()


def zipped() -> bytes:
    """A zip that holds no checkpoint."""
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 broken", zipped()])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    """Whatever is wrong with it."""
    for name in ("net.pth", "net.safetensors"):
        if name.endswith("safetensors"):
            pytest.importorskip("safetensors")
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SettingsError, match=name):
            pytorch.load_init(tmp_path / name, shapes_of(models.build("resnet18", 10, **SMALL)))
    with pytest.raises(SettingsError, match="no file or folder"):
        pytorch.load_init(tmp_path / "absent.pth", None)


# what files of training scripts look like, as f(state dict) -> content
FILES = {
    "state": lambda state: state,
    "state_dict with a score beside it": lambda state: {"best_prec1": 91.7, "state_dict": state},
    "net, with scalars and an optimizer": lambda state: {
        "epoch": 3,
        "acc": Tensor(np.array(0.9, np.float32)),
        "optimizer": {
            "state": {0: {"momentum_buffer": Tensor(np.zeros(3, np.float32))}},
            "param_groups": [{"lr": 0.1}],
        },
        "args": argparse.Namespace(lr=0.1, arch="resnet20"),
        "rng": np.float64(3.5),
        "net": state,
    },
    "ema": lambda state: {"ema": state, "steps": 5},
    "an unheard-of name, twice": lambda state: {"checkpoint": {"my_network": state}},
    "a list": lambda state: [3, state],
    "DataParallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "compiled": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    "compiled by blocks": lambda state: {k.replace(".0.", ".0._orig_mod."): v for k, v in state.items()},
    "both": lambda state: {"model": {f"module._orig_mod.{k}": v for k, v in state.items()}},
    "a prefix": lambda state: {"state_dict": {f"student.trunk.{k}": v for k, v in state.items()}},
    "scalars among the weights": lambda state: {**state, "epoch": 3, "scale": Tensor(np.array(0.5, np.float32))},
    "AveragedModel": lambda state: {"n_averaged": Tensor(np.array(5)), **{f"module.{k}": v for k, v in state.items()}},
    "a prefix beside other weights": lambda state: {
        "criterion.weight": Tensor(np.ones(4, np.float32)),
        **{f"net.{k}": v for k, v in state.items()},
    },
}


def cifar(name: str = "resnet20") -> tuple[Any, dict[str, np.ndarray]]:
    """The shapes of a network of that family with two narrow stages, and a state dict of it as PyTorch names it."""
    module = models.build(name, 10, **SMALL)
    return shapes_of(module), torch_names(module)


def as_variables(state: dict[str, np.ndarray], shapes: Any) -> Any:
    """What they must come to."""
    flat = pytorch.from_torch(state, shapes)
    leaves = [flat[name].astype(np.float32) for name in pytorch.flat_names(shapes)]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


@pytest.mark.parametrize("kind", FILES)
def test_files_of_training_scripts_load_as_they_are(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of torch.save before 1.6, the network wherever it lies; every number comes back."""
    shapes, state = cifar()
    for numbers, version in ((state, ""), (in_bfloat16(state), "_v2")):
        (tmp_path / "net.th").write_bytes(stream(FILES[kind](tensors(numbers, version)), monkeypatch))
        found = pytorch.load_init(tmp_path / "net.th", shapes)
        jax.tree.map(np.testing.assert_array_equal, found, as_variables(numbers, shapes))


def test_of_two_networks_the_one_that_is_no_average_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning names the other; one that does not fit is no candidate."""
    shapes, state = cifar()
    other = {name: x + 1 for name, x in state.items()}
    content = {"ema": tensors(other), "teacher": tensors(cifar("resnet18")[1]), "net": tensors(state)}
    (tmp_path / "net.th").write_bytes(stream(content, monkeypatch))
    with pytest.warns(UserWarning, match="'net' is read; 'ema' would fit too"):
        found = pytorch.load_init(tmp_path / "net.th", shapes)
    jax.tree.map(np.testing.assert_array_equal, found, as_variables(state, shapes))


def test_strides_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix that lies transposed in its storage."""
    shapes, state = cifar()
    turned = {**state, "linear.weight": np.asfortranarray(state["linear.weight"])}
    (tmp_path / "net.th").write_bytes(stream(tensors(turned), monkeypatch))
    found = pytorch.load_init(tmp_path / "net.th", shapes)
    np.testing.assert_array_equal(found["params"]["linear"]["kernel"], state["linear.weight"].T)


def test_bfloat16_safetensors(tmp_path: Path) -> None:
    """NumPy has no such type of its own."""
    shapes, state = cifar()
    numbers, header, data = in_bfloat16(state), {"__metadata__": {"format": "pt"}}, b""
    for name, x in numbers.items():
        header[name] = {"dtype": "BF16", "shape": list(x.shape), "data_offsets": [len(data), len(data) + x.nbytes]}
        data += x.tobytes()
    encoded = json.dumps(header).encode()
    (tmp_path / "net.safetensors").write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    found = pytorch.load_init(tmp_path / "net.safetensors", shapes)
    jax.tree.map(np.testing.assert_array_equal, found, as_variables(numbers, shapes))


def test_a_stream_with_code_in_it_is_refused_and_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a zip; so is a whole pickled module."""
    (tmp_path / "net.th").write_bytes(stream({"net": Bomb(tmp_path / "made")}, monkeypatch))
    with pytest.raises(SettingsError, match=r"mkdir, which is no part of a state dict: refused.*weights_only=False"):
        pytorch.load_init(tmp_path / "net.th", cifar()[0])
    assert not (tmp_path / "made").exists()


def test_a_stream_that_ends_early_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it ends: no weights of zeros are read."""
    shapes, state = cifar()
    whole = stream(tensors(state), monkeypatch)
    for share in (0.01, 0.3, 0.9, 1):
        (tmp_path / "net.th").write_bytes(whole[: int(share * len(whole)) - 1])
        with pytest.raises(SettingsError, match=r"net\.th cannot be read: .* It takes a state dict"):
            pytorch.load_init(tmp_path / "net.th", shapes)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"\x89HDF\r\n\x1a\n", "HDF5 file, as Keras writes it"),
        (b"<!DOCTYPE html><html>", "a web page.*download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer.*git lfs pull"),
        (pickle.dumps({"a": np.zeros(3)}), r"it is a pickle, but not one of torch.save|_reconstruct"),
        (zipped(), r"without a data\.pkl, such as an \.npz"),
        (b"weights", "neither of torch.save nor safetensors"),
    ],
)
def test_a_foreign_file_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    """What was found, what is taken, and the line that makes one of it."""
    (tmp_path / "net.pt").write_bytes(content)
    with pytest.raises(SettingsError, match=says) as error:
        pytorch.load_init(tmp_path / "net.pt", cifar()[0])
    assert "It takes a state dict written by torch.save" in str(error.value)
    assert "What makes one of it: " in str(error.value)


def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    """With the line that makes a state dict of it."""
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as file:
        file.writestr("net/data.pkl", pickle.dumps({}))
        file.writestr("net/code/__torch__.py", "")
    with pytest.raises(SettingsError, match=r"TorchScript.*torch\.save\(torch\.jit\.load\(\"net\.pt\"\)\.state_dict"):
        pytorch.load_init(tmp_path / "net.pt", cifar()[0])


def test_nan_and_inf_are_named_by_parameter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file and in a folder; how many numbers of each."""
    shapes, state = cifar()
    state["layer1.0.bn1.running_var"][:3] = np.nan
    state["linear.bias"][1] = np.inf
    (tmp_path / "net.th").write_bytes(stream(tensors(state), monkeypatch))
    storage.save_tree(tmp_path / "tree", as_variables(state, shapes))
    for name in ("net.th", "tree"):
        with pytest.raises(SettingsError) as error:
            pytorch.load_init(tmp_path / name, shapes)
        text = str(error.value)
        assert "NaN or Inf in 2 of " in text
        assert "batch_stats.layer1.0.bn1.var (3 of 8 numbers)" in text
        assert "params.linear.bias (1 of 10 numbers)" in text


def test_options_of_shortcuts_and_depths_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which the file has and which the backbone. As it advises, ResNet-18's blocks with that family's
    widths read a file of option B."""
    padded, state = cifar()
    projected, other = cifar("resnet18")
    as_released = {name.replace("fc.", "linear."): x for name, x in other.items()}
    (tmp_path / "a.th").write_bytes(stream(tensors(state), monkeypatch))
    (tmp_path / "b.th").write_bytes(stream(tensors(as_released), monkeypatch))
    with pytest.raises(SettingsError, match=r"Its shortcuts are 1x1 convolutions \(option B.*backbone\.name=resnet18"):
        pytorch.load_init(tmp_path / "b.th", padded)
    with pytest.raises(SettingsError, match=r"no parameters in its shortcuts \(option A.*resnet20 to resnet110"):
        pytorch.load_init(tmp_path / "a.th", projected)
    found = pytorch.load_init(tmp_path / "b.th", projected)
    np.testing.assert_array_equal(found["params"]["fc"]["bias"], other["fc.bias"])
    deeper = shapes_of(models.build("resnet20", 10, widths=(8, 16), blocks=(2, 3)))
    with pytest.raises(SettingsError, match="It has 1, 1 blocks in its stages, the backbone has 2, 3"):
        pytorch.load_init(tmp_path / "a.th", deeper)


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "convnext_tiny"])
def test_a_new_last_layer_on_a_trained_trunk(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For other classes, or a file without a last layer: zeros there, everything else as in the file. The error without
    the setting names it, and one for a trunk that does not fit does not."""
    module, theirs = (models.build(name, n, **SMALL) for n in (10, 7))
    shapes, state = shapes_of(module), torch_names(theirs)
    head = {"resnet20": "linear.", "resnet18": "fc.", "convnext_tiny": "head.fc."}[name]
    trunk = {key: x for key, x in state.items() if not key.startswith(head)}
    (tmp_path / "net.th").write_bytes(stream(tensors(state), monkeypatch))
    (tmp_path / "trunk.th").write_bytes(stream(tensors(trunk), monkeypatch))
    storage.save_tree(tmp_path / "tree", as_variables(state, shapes_of(theirs)))
    for file in ("net.th", "trunk.th", "tree"):
        with pytest.raises(SettingsError, match=r"Only the last layer differs.*--config\.backbone\.init_head=new"):
            pytorch.load_init(tmp_path / file, shapes)
        found = pytorch.flat_names(pytorch.load_init(tmp_path / file, shapes, new_head=True))
        expected = pytorch.from_torch(trunk, shapes)
        assert set(found) - set(expected) == {f"params.{head}{leaf}" for leaf in ("kernel", "bias")}
        for key, x in found.items():
            np.testing.assert_array_equal(x, expected.get(key, 0))
    wider = shapes_of(models.build(name, 10, widths=(16, 32), blocks=(1, 1)))
    for new_head in (False, True):
        with pytest.raises(SettingsError, match="of another shape") as error:
            pytorch.load_init(tmp_path / "net.th", wider, new_head=new_head)
        assert "init_head" not in str(error.value)


RELEASED = os.environ.get("BEND_JAX_TRAINED", "")
CIFAR10 = os.environ.get("BEND_JAX_CIFAR10", "")


@pytest.mark.slow
@pytest.mark.skipif(not RELEASED, reason="BEND_JAX_TRAINED names no folder with the released resnet*.th files")
@pytest.mark.parametrize(("name", "right"), [("resnet20", 9173), ("resnet32", 9263), ("resnet56", 9339)])
def test_the_released_networks_have_their_accuracy(name: str, right: int) -> None:
    """Every number of the files is read; on CIFAR-10's test images, where BEND_JAX_CIFAR10 names an .npz of them, as
    many are right as PyTorch has."""
    (path,) = Path(RELEASED).glob(f"{name}-*.th")
    module = models.build(name, 10)
    variables = pytorch.load_init(path, shapes_of(module))
    if not CIFAR10:
        pytest.skip("BEND_JAX_CIFAR10 names no .npz of CIFAR-10")
    with np.load(CIFAR10) as file:
        images, labels = file["x_test"], file["y_test"]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    label = jax.jit(lambda variables, x: jnp.argmax(module.apply(variables, augment.normalise(x, mean, std)), axis=1))
    found = np.concatenate([label(variables, images[i : i + 1000]) for i in range(0, 10000, 1000)])
    assert int((found == labels).sum()) == right


@pytest.mark.parametrize("name", ["resnet18", "regnety_400mf", "resnet20"])
def test_logits_are_pytorchs(name: str, tmp_path: Path) -> None:
    """A net written in PyTorch, with random weights and statistics, saved by torch.save: logits equal to 1e-4."""
    torch = pytest.importorskip("torch")
    from tests.torch_nets import build

    torch.manual_seed(0)
    net = build(name).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    is_zip = name != "resnet20"  # whose public weights are of the format before
    content = {"net": net.state_dict(), "epoch": 3}
    torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=is_zip)
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    module = models.build(name, 10)
    variables = pytorch.load_init(tmp_path / "net.pth", shapes_of(module))
    found = np.asarray(jax.jit(module.apply)(variables, images))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)
