"""What scripts written for PyTorch and torchvision do beside the maths: they run as they are."""

import importlib

import numpy as np
import pytest
from PIL import Image

import minidl as ml
import minidl.data.transforms as T
from minidl import data, nn, optim
from minidl.errors import MinidlError, ShapeError

# ---- tensors -------------------------------------------------------------------------------------


def test_a_number_is_formatted_as_one():
    """Regression: f"{loss}" showed a tensor."""
    loss = (ml.tensor([1.0, 2.0], requires_grad=True) ** 2).sum()
    assert (f"{loss}", f"{loss:.3f}", f"{ml.tensor(3)}", f"{ml.tensor(True)}") == (
        "5.0", "5.000", "3", "True")  # fmt: skip
    assert f"{ml.tensor([1.0])}".startswith("tensor([")


@pytest.mark.parametrize("values, text", [
    ([0.5, 0.25], "[0.5000, 0.2500]"), ([1, 2], "[1., 2.]"), (1.5, "1.5000"), (2, "2."),
    ([1e-8, 1], "[1.0000e-08, 1.0000e+00]"), ([np.nan, 1.5], "[   nan, 1.5000]"),
    ([1e5, 0.5], "[1.0000e+05, 5.0000e-01]"), ([], "[]"),
    ([[1.5, -2.25], [3, 4]], "[[ 1.5000, -2.2500],\n        [ 3.0000,  4.0000]]"),
    (np.arange(20) + 0.0, "[ 0.,  1.,  2.,  3.,  4.,  5.,  6.,  7.,  8.,  9., 10., 11., 12., 13.,"
     "\n        14., 15., 16., 17., 18., 19.]"),
])  # fmt: skip
def test_numbers_are_shown_as_pytorch_shows_them(values, text):
    assert repr(ml.tensor(values, dtype=ml.float32)) == f"tensor({text})"


def test_a_shape_tells_how_many_elements_there_are():
    x = ml.zeros(2, 3)
    assert x.shape.numel() == x.size().numel() == 6 and x.shape == (2, 3)
    assert isinstance(x.shape, ml.Size) and ml.zeros(()).shape.numel() == 1
    assert ml.Tensor(x.shape).shape == ml.FloatTensor(x.size()).shape == (2, 3)
    assert ml.Tensor((2, 3)).shape == (2,)  # a tuple is data


@pytest.mark.parametrize("items, dtype", [
    ([np.float64(2)], "float64"), ([np.float32(2)], "float32"), ([np.int32(1)], "int32"),
    ([1, 2], "int64"), ([1.5], "float32"), ([True], "bool"), ([np.bool_(1)], "bool"),
    ([np.ones(2), np.zeros(2)], "float64"), ([ml.tensor(1.0), ml.tensor(2.0)], "float32"),
    ([[np.float64(1)], [2.0]], "float64"), ([], "float32"), ([np.int64(1), 2.5], "float32"),
])  # fmt: skip
def test_lists_of_numpys_numbers_keep_their_dtype(items, dtype):
    """Regression: they became float32 and int64, as Python's do."""
    assert ml.tensor(items).dtype == dtype
    assert ml.tensor(items, dtype=ml.float64).dtype == ml.float64


def test_arguments_by_pytorchs_names():
    a, b = ml.randn(2, 3), ml.randn(3, 2)
    for found, expected in [
        (ml.sum(input=a, dim=1), a.sum(1)), (ml.exp(input=a), a.exp()),
        (ml.matmul(input=a, other=b), a @ b), (ml.mm(a, mat2=b), a @ b),
        (ml.pow(input=a, exponent=2), a**2), (a.mul(other=2), a * 2),
        (ml.where(condition=a > 0, input=a, other=-a), a.abs()),
        (ml.max(input=a, dim=1).values, a.amax(1)), (ml.sum(a, axis=0), a.sum(0)),
        (a.permute(dims=(1, 0)), a.T), (ml.clamp(input=a, min=0), a.relu()),
        (ml.round(input=a, decimals=1), a.round(decimals=1)),
        (ml.cat(tensors=[a, a], dim=1), ml.cat([a, a], 1)),
    ]:  # fmt: skip
        assert ml.equal(found, expected)


def test_results_written_into_a_tensor():
    a, z = ml.randn(2, 3), ml.empty(2, 3)
    assert ml.mul(a, 2, out=z) is z and ml.equal(z, a * 2)
    assert ml.add(a, 1, out=z) is z and ml.equal(z, a + 1)
    assert ml.rand(2, 3, out=z) is z and 0 <= z.min() <= z.max() < 1
    products = ml.empty(2, 2)
    assert ml.matmul(a, a.T, out=products) is products and ml.equal(products, a @ a.T)
    assert ml.exp(a, out=a) is a
    with pytest.raises(ShapeError, match="cannot be broadcast"):
        ml.mul(a, 2, out=ml.empty(2, 2))


def test_indices_and_draws_as_scripts_write_them():
    x = ml.tensor([1.0, 2.0, 3.0, 4.0])
    assert x[(x > 2).byte()].tolist() == [3, 4]  # a mask, as of old
    assert x[(x > 2).numpy().astype(np.uint8)].tolist() == [3, 4]
    hot = ml.zeros(4).scatter_(0, ml.tensor([1, 2]), value=1)
    assert hot.tolist() == [0, 1, 1, 0]
    assert ml.randint(5, size=(2,)).shape == ml.randint(high=5, size=(2,)).shape == (2,)
    assert ml.randint(5, size=(100,)).max() < 5
    assert ml.repeat_interleave(x, 2)[:4].tolist() == [1, 1, 2, 2]
    assert (+x).tolist() == x.tolist() and not x.is_sparse
    assert ml.zeros(4).copy_(x, non_blocking=True).tolist() == x.tolist()
    assert ml.zeros_like(x, memory_format=ml.preserve_format).shape == x.shape


def test_mistakes_are_runtime_errors():
    """As PyTorch's: a lesson catches them so."""
    assert issubclass(MinidlError, RuntimeError)
    with pytest.raises(RuntimeError):
        _ = ml.zeros(2, 3) @ ml.zeros(2, 3)
    with pytest.raises(ValueError, match="x's last axis"):
        _ = ml.zeros(2, 3) @ ml.zeros(2, 3)


# ---- gradients -----------------------------------------------------------------------------------


def test_a_gradient_penalty_as_it_is_written_everywhere():
    x = ml.randn(3, 2, requires_grad=True)
    (g,) = ml.autograd.grad(outputs=(x**3).sum(), inputs=x, grad_outputs=ml.tensor(1.0),
                            create_graph=True, retain_graph=True, only_inputs=True)  # fmt: skip
    ((g.norm(2, dim=1) - 1) ** 2).mean().backward()
    assert x.grad.shape == (3, 2)


def test_what_a_node_passes_gradients_to():
    x = ml.ones(2, requires_grad=True)
    loss = (x * 2).sum()
    ((product, output),) = loss.grad_fn.next_functions
    assert (product.name, output) == ("mul", 0)
    assert product.next_functions[0] == (x, -1) and product.next_functions[1] == (None, 0)


def test_a_functions_backward_may_say_none_for_arguments_not_given():
    class Linear(ml.autograd.Function):
        @staticmethod
        def forward(ctx, x, w, bias=None):
            ctx.save_for_backward(x, w)
            return x @ w

        @staticmethod
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            return g @ w.T, x.T @ g, None

    w = ml.ones(2, 2, requires_grad=True)
    Linear.apply(ml.ones(1, 2), w).sum().backward()
    assert w.grad.tolist() == [[1, 1], [1, 1]]


def test_checkpoints_take_pytorchs_switches():
    layer, x = nn.Linear(3, 3), ml.randn(2, 3, requires_grad=True)
    ml.checkpoint(layer, x, use_reentrant=False, preserve_rng_state=True).sum().backward()
    (expected,) = ml.grad(layer(x).sum(), x)
    assert ml.equal(x.grad, expected)


def test_variables_are_tensors():
    x = ml.ones(2, requires_grad=True)
    v = ml.autograd.Variable(x * 2, requires_grad=True)
    assert v.is_leaf and v.requires_grad and not ml.autograd.Variable(x).requires_grad


# ---- modules, optimizers, imports ----------------------------------------------------------------


def test_data_parallel_is_its_module():
    net = nn.DataParallel(nn.Linear(2, 3), device_ids=[0])
    assert [name for name, _ in net.named_parameters()] == ["module.weight", "module.bias"]
    x = ml.randn(4, 2)
    assert ml.equal(net(x), net.module(x))


@pytest.mark.parametrize("kind", [
    optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.RMSprop,
    optim.Adagrad, optim.Adadelta,
])  # fmt: skip
def test_optimizers_take_hints_of_speed(kind):
    layer = nn.Linear(2, 2)
    optimizer = kind(layer.named_parameters(), lr=0.1, foreach=True, fused=None)
    assert optimizer.param_groups[0]["params"] == [*layer.parameters()]
    assert not {"foreach", "fused", "hints"} & {*optimizer.param_groups[0]}
    with pytest.raises(TypeError, match=f"{kind.__name__}: there is no option 'momentun'"):
        kind(layer.parameters(), lr=0.1, momentun=0.9)


@pytest.mark.parametrize("module, name", [
    ("backends.cudnn", "benchmark"), ("cuda.amp", "GradScaler"), ("cuda.amp", "autocast"),
    ("distributions.normal", "Normal"), ("distributions.categorical", "Categorical"),
    ("optim.lr_scheduler", "_LRScheduler"), ("autograd", "Variable"),
])  # fmt: skip
def test_modules_are_imported_by_pytorchs_names(module, name):
    assert hasattr(importlib.import_module(f"minidl.{module}"), name)


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "mobilenet_v2"])
def test_models_take_torchvisions_word_for_no_weights(name):
    make = getattr(ml.models, name)
    small = {"hidden": 8} if name == "vgg11" else {}
    model = make(num_classes=2, weights=None, pretrained=False, **small).eval()
    assert model(ml.zeros(1, 3, 32, 32)).shape == (1, 2)
    for asked in ({"pretrained": True}, {"weights": "DEFAULT"}):
        with pytest.raises(MinidlError, match="no weights are downloaded.*minidl.io.load_weights"):
            make(**asked)


def test_a_cpu_answers_what_is_asked_of_accelerators():
    assert ml.cuda.amp.GradScaler is ml.amp.GradScaler and not hasattr(ml.cuda, "nothing")
    if not ml.cuda.is_available():
        assert not ml.accelerator.is_available() and ml.accelerator.current_accelerator() is None
        ml.cuda.empty_cache()  # nothing to do


# ---- data ----------------------------------------------------------------------------------------


def test_checkpoints_are_loaded_wherever_they_came_from(tmp_path):
    path = tmp_path / "a.ckpt"
    ml.save({"w": ml.ones(2)}, path)
    for where in (lambda storage, location: storage, {"cuda:0": "cpu"}, "cpu", None):
        assert ml.load(path, map_location=where)["w"].tolist() == [1, 1]


def test_resizing_is_antialiased():
    assert T.Resize(2, antialias=True)(PIXELS.transpose(2, 0, 1)).shape == (3, 2, 2)
    with pytest.raises(ShapeError, match="antialias not False"):
        T.Resize(2, antialias=False)


def test_a_recurrent_layers_weights_by_name():
    layer = nn.GRU(2, 3, num_layers=2)
    assert layer._flat_weights_names == [name for name, _ in layer.named_parameters()]


def test_loaders_take_what_is_of_processes():
    pairs = data.TensorDataset(ml.arange(10.0).reshape(10, 1))
    loader = data.DataLoader(pairs, 4, num_workers=1, persistent_workers=True, prefetch_factor=2,
                             worker_init_fn=print, timeout=9, pin_memory=True)  # fmt: skip
    assert [len(x) for (x,) in loader] == [4, 4, 2]


def test_more_draws_than_memory_holds():
    """Regression: RandomSampler drew all of 10,000,000,000 indices at once."""
    sampler = data.RandomSampler(range(5), replacement=True, num_samples=int(1e10))
    assert len(sampler) == 10**10 and next(iter(sampler)) in range(5)
    few = data.RandomSampler(range(5), replacement=True, num_samples=9)
    assert len([*few]) == 9


def test_the_indices_of_a_split_are_lists():
    first, second = data.random_split(range(10), [6, 4])
    assert sorted(first.indices + second.indices) == list(range(10))
    assert data.Subset(range(10), [3, -1])[1] == 9


PIXELS = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


@pytest.mark.parametrize("pixels", [PIXELS, PIXELS[..., :1], PIXELS[..., 0]])
def test_to_tensor_takes_rows_of_pixels(pixels):
    """An array is (H, W, C) or (H, W), as in torchvision; in a chain of transforms, too."""
    want = np.atleast_3d(pixels).transpose(2, 0, 1) / np.float32(255)
    for transform in (T.ToTensor(), T.Compose([T.ToTensor(), T.Normalize(0.0, 1.0)])):
        x = transform(pixels)
        assert isinstance(x, ml.Tensor) and x.dtype == ml.float32
        np.testing.assert_allclose(x.numpy(), want, rtol=1e-6)
    batch = np.ascontiguousarray(PIXELS.transpose(2, 0, 1))[None]
    assert T.ToTensor()(batch).shape == (1, 3, 4, 5) == T.ToFloat()(batch).shape
    assert T.ToTensor()(ml.tensor(batch[0])).shape == (3, 4, 5)


def test_to_pil_image_takes_rows_of_pixels():
    """An array is (H, W, C), a Tensor (C, H, W)."""
    for given in (PIXELS, ml.tensor(PIXELS).permute(2, 0, 1), PIXELS / 255.0):
        np.testing.assert_array_equal(T.ToPILImage()(given), PIXELS)
    assert T.ToPILImage()(PIXELS[..., 0]).size == (5, 4)


def test_functions_among_transforms_see_one_picture():
    """Regression: they were given whole batches of arrays."""
    seen = []

    def flat(x):
        seen.append((type(x), x.shape))
        return x.reshape(-1)

    pictures = ml.tensor(np.stack([PIXELS.transpose(2, 0, 1)] * 2))
    assert T.Compose([T.ToTensor(), flat])(pictures).shape == (2, 60)
    assert seen == [(ml.Tensor, (3, 4, 5))] * 2
    noisy = T.Compose([T.ToTensor(), lambda x: x + float(ml.rand(1))])(pictures)
    assert len({float(x.mean()) for x in noisy}) == 2


def test_functions_of_pillows_pictures_and_of_labels():
    grey = Image.fromarray(PIXELS[..., 0])
    chain = T.Compose([lambda picture: picture.convert("RGB"), T.Resize((8, 8)), T.ToTensor()])
    assert chain(grey).shape == (3, 8, 8)
    assert T.Lambda(lambda picture: picture.mode)(grey) == "L"
    hot = T.Lambda(lambda y: ml.zeros(4).scatter_(0, ml.tensor(y), value=1))
    assert hot(2).tolist() == [0, 0, 1, 0]
    named = T.Compose([lambda s: {"image": T.ToTensor()(s["image"]), "label": s["label"]}])
    assert named({"image": PIXELS, "label": 3})["image"].shape == (3, 4, 5)
