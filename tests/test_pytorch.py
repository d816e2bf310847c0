"""Trained models in: parity with PyTorch, every name accounted for, and no code of a pickle executed."""

import collections
import io
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
from bend_jax.models import pytorch

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


@pytest.mark.parametrize("name", ["resnet18", "regnety_400mf"])
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
    torch.save({"net": net.state_dict(), "epoch": 3}, tmp_path / "net.pth")
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    module = models.build(name, 10)
    variables = pytorch.load_init(tmp_path / "net.pth", shapes_of(module))
    found = np.asarray(jax.jit(module.apply)(variables, images))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)
