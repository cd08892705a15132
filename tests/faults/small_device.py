"""A device like Apple's GPUs, as far as a CPU can pretend: no float64, and some operations are lacking.

    small_device.install()
    torch.empty(3, device="laptop")

Everything is computed on the CPU. Tensors of the CPU and of the device are told apart as on a real one: an operation
takes those of one device, but for scalars. For a process of its own: torch has room for one such device."""

import functools

import torch
from torch import library as operators
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "laptop"
LACKING = {  # operations that MPS has not, or got only recently
    "aten::linalg_eig", "aten::_linalg_eigh", "aten::linalg_qr", "aten::linalg_lstsq", "aten::_upsample_bicubic2d_aa",
    "aten::_upsample_bilinear2d_aa", "aten::_ctc_loss", "aten::histogram", "aten::_fft_r2c",
}  # fmt: skip
FOREIGN = (
    "aten::copy_",
    "aten::_to_copy",
    "aten::index",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::index_put",
)


class OnDevice(torch.Tensor):
    """A tensor of the device, which holds one of the CPU."""

    @staticmethod
    def __new__(cls, raw):
        if raw.dtype in (torch.float64, torch.complex128):
            raise TypeError("Cannot convert a laptop Tensor to float64 dtype as the framework doesn't support float64.")
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=f"{NAME}:0",
        )
        made.raw = raw
        return made

    def __repr__(self):
        return f"OnDevice({self.raw!r})"

    def tolist(self):  # torch refuses it for subclasses
        return self.raw.tolist()

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})


def compute(operation, args, kwargs):
    name = operation._schema.name
    if name in LACKING:
        raise NotImplementedError(f"The operator '{name}' is not currently implemented for the laptop device")
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    strangers = [t for t in tensors if not isinstance(t, OnDevice) and t.dim()]
    if strangers and any(isinstance(t, OnDevice) for t in tensors) and name not in FOREIGN:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got laptop and cpu")
    to = kwargs.get("device")
    stays = to is not None and torch.device(to).type == "cpu"
    raw_args, raw_kwargs = pytree.tree_map(lambda x: x.raw if isinstance(x, OnDevice) else x, (args, kwargs))
    if to is not None:
        raw_kwargs["device"] = torch.device("cpu")
    raw_kwargs.pop("pin_memory", None)
    out = operation(*raw_args, **raw_kwargs)
    if not stays:
        out = pytree.tree_map(lambda x: OnDevice(x) if isinstance(x, torch.Tensor) else x, out)
    if stays or not any(isinstance(t, OnDevice) for t in tensors):
        return out
    return return_and_correct_aliasing(operation, args, kwargs, out)


def install():
    _setup_privateuseone_for_python_backend(NAME)
    kept = operators.Library("_", "IMPL")
    kept.fallback(lambda operation, *args, **kwargs: compute(operation, args, kwargs), "PrivateUse1")
    KEPT.append(kept)
    for maker in ("tensor", "as_tensor"):  # these would go past `__torch_dispatch__`
        setattr(torch, maker, functools.partial(make_on_cpu_first, vars(torch)[maker]))


def make_on_cpu_first(make, data, *args, device=None, **named):
    made = make(data, *args, **named)
    return made if device is None else made.to(device)


KEPT = []
