"""Running a slice: the session over the mapped file, and the key and value cache of a generation.

The coordinator writes the file (`maille_coordinator.slices.container` and `.cut`, format in
docs/decisions/0005-language-model-number-formats.md); a node knows no more of it than what is read
here, and the tests of the slices hold both ends together. ONNX Runtime maps the weights from the file and copies those that
it rearranges; the mapped pages are then given back, so what stays resident is about one copy.
"""

import json
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import onnxruntime

from maille_node.language.pages import forget_pages, join_pages
from maille_node.language.slice_errors import ActivationRefused, SliceUnusable

__all__ = ["KeyValueCache", "SliceInfo", "Stage", "Unchecked"]

Floats = npt.NDArray[np.float32]
# What comes from elsewhere is checked before it is used.
Unchecked = npt.NDArray[np.generic]

_GRAPH_TENSOR = "graph.onnx"
_LOCATION = b"0" * 64
_VERSION = 1
_MAX_HEADER_BYTES = 16 << 20
# Attention that writes all scores of a step down is faster than the "flash" kernel, which ONNX
# Runtime takes unless its environment says this when a session is made (decision 27). The scores
# take memory, so a step far into a long context goes in pieces.
_NO_FLASH = "ORT_GQA_DISABLE_FLASH_ATTENTION"
_MOST_SCORES = 128 * 2048
_LEAST_PIECE = 8


@dataclass(frozen=True, slots=True)
class SliceInfo:
    """What a slice says about itself.

    Attributes:
        model: the model's name.
        first_layer: first layer in it, counted from 0.
        last_layer: last layer in it.
        with_embedding: takes tokens instead of hidden values.
        with_head: gives logits instead of hidden values.
        hidden_size: values of one activation.
        vocabulary_size: values of one row of logits.
        key_value_head_count: heads in the cache.
        head_size: values of one head.
        context_length: positions the model was trained for.
        inverse_frequencies: of the rotary embedding.
    """

    model: str
    first_layer: int
    last_layer: int
    with_embedding: bool
    with_head: bool
    hidden_size: int
    vocabulary_size: int
    key_value_head_count: int
    head_size: int
    context_length: int
    inverse_frequencies: tuple[float, ...]

    @property
    def layers(self) -> range:
        """The layers in it."""
        return range(self.first_layer, self.last_layer + 1)

    def cache_bytes(self, capacity: int) -> int:
        """Bytes of a cache with room for so many positions."""
        values = 2 * len(self.layers) * self.key_value_head_count * self.head_size
        return 4 * values * (capacity + 1)


class KeyValueCache:
    """Keys and values of one generation in one stage, in memory laid out once.

    Memory is taken from the system as positions are filled, up to `SliceInfo.cache_bytes`.

    Attributes:
        capacity: positions there is room for.
        length: positions that are filled.
    """

    def __init__(self, stage: "Stage", capacity: int) -> None:
        info = stage.info
        if not 0 < capacity <= info.context_length:
            raise ActivationRefused(
                f"{info.model} has a context of {info.context_length} tokens, {capacity} were "
                "asked for; ask for a shorter context"
            )
        self.capacity = capacity
        self.length = 0
        # One row more: attention appends a copy of the last row, which the next step overwrites.
        shape = (1, info.key_value_head_count, capacity + 1, info.head_size)
        self._arrays: list[Floats] = []
        self._binding = stage.new_binding()
        cosine, sine = stage.rope(capacity + 1)
        self._tables = (cosine, sine)
        self._binding.bind_cpu_input("cosine", cosine)
        self._binding.bind_cpu_input("sine", sine)
        for index in info.layers:
            for part in ("key", "value"):
                array = np.zeros(shape, np.float32)
                self._arrays.append(array)
                value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
                self._binding.bind_ortvalue_input(f"past_{part}.{index}", value)
                self._binding.bind_ortvalue_output(f"present_{part}.{index}", value)

    @property
    def binding(self) -> onnxruntime.IOBinding:
        """The inputs and outputs that stay the same from step to step."""
        return self._binding

    def truncate(self, length: int) -> None:
        """Forget all positions from `length` on, to go on from a shared prefix."""
        if not 0 <= length <= self.length:
            raise ActivationRefused(f"the cache holds {self.length} positions, not {length}")
        self.length = length

    def copy_from(self, source: Self, length: int) -> None:
        """Begin with the first positions of another cache of the same stage."""
        for array, other in zip(self._arrays, source._arrays, strict=True):
            array[0, :, :length] = other[0, :, :length]
        self.length = length

    def read(self, start: int, stop: int) -> Floats:
        """A copy of the positions `start` to `stop`, for a hand-over.

        Returns:
            `[layers, 2, heads, positions, head size]`.
        """
        if not 0 <= start <= stop <= self.length:
            raise ActivationRefused(
                f"the cache holds {self.length} positions, not {start} to {stop}"
            )
        stacked = np.stack([array[0, :, start:stop] for array in self._arrays])
        return stacked.reshape(len(self._arrays) // 2, 2, *stacked.shape[1:])

    def write(self, values: Unchecked) -> None:
        """Append positions that `read` gave on another stage with the same slice.

        Raises:
            ActivationRefused: they have another shape, are not finite, or there is no room.
        """
        heads, _, size = self._arrays[0].shape[1:]
        expected = (len(self._arrays) // 2, 2, heads, size)
        if (
            values.dtype != np.float32
            or values.ndim != 5
            or values.shape[:3] + values.shape[4:] != expected
            or not np.isfinite(values).all()
        ):
            raise ActivationRefused(
                f"handed-over keys and values of shape {values.shape} do not fit this slice; "
                "both ends must hold the same slice"
            )
        stop = self.length + values.shape[3]
        if stop > self.capacity:
            raise ActivationRefused(f"{stop} positions do not fit a cache of {self.capacity}")
        for array, part in zip(self._arrays, values.reshape(-1, *values.shape[2:]), strict=True):
            array[0, :, self.length : stop] = part
        self.length = stop


class Stage:
    """One slice, ready to run. Several generations share it, each with a cache of its own.

    Calls run in the thread that makes them (ONNX Runtime lets go of Python's lock meanwhile) and
    use `threads` threads; results do not depend on how many.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        """Load a slice.

        Args:
            path: a slice, named by its SHA-256.
            threads: threads of one call.

        Raises:
            SliceUnusable: the file is missing, damaged or of another version, or ONNX Runtime
                refuses its graph.
        """
        self.path = path
        self._shrinking = onnxruntime.RunOptions()
        self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._rope: tuple[Floats, Floats] | None = None
        name = path.name
        if len(name) != len(_LOCATION):
            raise SliceUnusable(
                f"a slice is stored under its SHA-256; {path} is not, fetch it again"
            )
        try:
            with (
                path.open("rb") as stream,
                mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            ):
                self.info, graph = _parse(mapped)
        except OSError as error:
            raise SliceUnusable(f"cannot read the slice {path}: {error}; fetch it again") from error
        except (KeyError, TypeError, ValueError) as error:
            raise SliceUnusable(f"{path} is not a slice, or is damaged; fetch it again") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Shapes change from call to call, so a remembered pattern of memory would only be kept.
        options.enable_mem_pattern = False
        # The graph is written as it should run; see `cut`.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        for key, value in (
            # Rearranged weights come from the system, not from an arena that grows by doubling.
            ("session.use_device_allocator_for_initializers", "1"),
            # Threads that wait must not burn the processor that the next stage needs.
            ("session.intra_op.allow_spinning", "0"),
            ("session.model_external_initializers_file_folder_path", str(path.parent.absolute())),
        ):
            options.add_session_config_entry(key, value)
        os.environ[_NO_FLASH] = "1"
        try:
            self._session = onnxruntime.InferenceSession(
                graph.replace(_LOCATION, name.encode()),
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:
            raise SliceUnusable(
                f"ONNX Runtime {onnxruntime.__version__} cannot run {name[:12]}: {error}; "
                "update onnxruntime on this node"
            ) from error
        forget_pages(path)
        join_pages()

    @classmethod
    def open(cls, path: Path, *, threads: int = 1) -> Self:
        """The same as the constructor, by a name that says what it does."""
        return cls(path, threads=threads)

    def new_cache(self, capacity: int) -> KeyValueCache:
        """Room for a generation of up to `capacity` positions.

        Raises:
            ActivationRefused: the model's context is shorter.
        """
        return KeyValueCache(self, capacity)

    def new_binding(self) -> onnxruntime.IOBinding:
        """A binding of this session; `KeyValueCache` keeps one a generation."""
        return self._session.io_binding()

    def rope(self, positions: int) -> tuple[Floats, Floats]:
        """Rotary tables of at least `positions` rows, shared by all caches that fit them."""
        if self._rope is None or len(self._rope[0]) < positions:
            self._rope = _rope_tables(self.info.inverse_frequencies, positions)
        return self._rope

    def run(self, cache: KeyValueCache, values: Unchecked, rows: Sequence[int] = ()) -> Floats:
        """Put new positions through the slice and append them to the cache.

        Args:
            cache: of this stage.
            values: `tokens int64 [T]` where the slice has the embedding, otherwise
                `hidden float32 [T, hidden size]`.
            rows: with the head, whose logits are wanted: indices into the T new positions. The
                head is skipped where none is.

        Returns:
            `logits float32 [len(rows), vocabulary size]` or `hidden float32 [T, hidden size]`.

        Raises:
            ActivationRefused: the values have another shape or type, are not finite or no tokens of
                this model, or the cache has no room for them. The cache stays as it was.
        """
        count = self._check(cache, values, rows)
        most = max(_LEAST_PIECE, _MOST_SCORES // (cache.length + count))
        if count <= most:
            return self._run(cache, values, rows)
        return self._run_in_pieces(cache, values, rows, most)

    def _run_in_pieces(
        self, cache: KeyValueCache, values: Unchecked, rows: Sequence[int], most: int
    ) -> Floats:
        before = cache.length
        pieces = []
        try:
            for start in range(0, len(values), most):
                piece = values[start : start + most]
                wanted = [row - start for row in rows if start <= row < start + len(piece)]
                pieces.append(self._run(cache, piece, wanted))
        except BaseException:
            cache.truncate(before)
            raise
        joined = np.concatenate(pieces)
        if not self.info.with_head:
            return joined
        # Rows came piece by piece; the caller may have asked for them in another order.
        ordered = np.empty_like(joined)
        ordered[np.argsort([row // most for row in rows], kind="stable")] = joined
        return ordered

    def _run(self, cache: KeyValueCache, values: Unchecked, rows: Sequence[int]) -> Floats:
        info = self.info
        count = len(values)
        binding = cache.binding
        end = cache.length + count
        binding.bind_cpu_input("tokens" if info.with_embedding else "hidden", values)
        binding.bind_cpu_input("last_position", np.array([end], np.int32))
        binding.bind_cpu_input("length", np.array(end + 1, np.int32))
        if info.with_head:
            binding.bind_cpu_input("rows", np.array(rows, np.int64))
            name, output = "logits", np.empty((len(rows), info.vocabulary_size), np.float32)
        else:
            name, output = "hidden_out", np.empty((count, info.hidden_size), np.float32)
        if output.size:
            binding.bind_output(name, "cpu", 0, np.float32, output.shape, output.ctypes.data)
        else:
            binding.bind_output(name, "cpu")
        # At the end of a prompt its buffers are given back; sooner, the next step would want them.
        ends_prompt = count > 1 and bool(rows)
        self._session.run_with_iobinding(binding, self._shrinking if ends_prompt else None)
        cache.length = end
        return output

    def _check(self, cache: KeyValueCache, values: Unchecked, rows: Sequence[int]) -> int:
        info = self.info
        count = len(values) if values.ndim else 0
        if info.with_embedding:
            good = values.dtype == np.int64 and values.ndim == 1 and count > 0
            if not good or values.min() < 0 or values.max() >= info.vocabulary_size:
                raise ActivationRefused(
                    f"{info.model} takes a list of tokens from 0 to {info.vocabulary_size - 1}"
                )
        elif values.dtype != np.float32 or values.shape != (count, info.hidden_size) or count == 0:
            raise ActivationRefused(
                f"layer {info.first_layer} of {info.model} takes float32 [T, {info.hidden_size}], "
                f"not {values.dtype} {list(values.shape)}"
            )
        elif not np.isfinite(values).all():
            raise ActivationRefused(
                f"the hidden values for layer {info.first_layer} of {info.model} are not finite; "
                "the stage before it is broken"
            )
        if cache.length + count > cache.capacity:
            raise ActivationRefused(
                f"{cache.length + count} positions do not fit a cache of {cache.capacity}; "
                "shorten the prompt or ask for a longer context"
            )
        if rows and not info.with_head:
            raise ActivationRefused("this slice has no head, so it has no logits")
        if any(not 0 <= row < count for row in rows):
            raise ActivationRefused(f"rows of logits must be from 0 to {count - 1}")
        return count


def _parse(mapped: mmap.mmap) -> tuple[SliceInfo, bytes]:
    """The description and the graph.

    Raises:
        KeyError: a part is missing.
        TypeError: a part is of another kind.
        ValueError: a part does not fit the others, or the file is cut short.
    """
    header_bytes = int.from_bytes(mapped[:8], "little")
    if not 0 < header_bytes <= min(_MAX_HEADER_BYTES, len(mapped) - 8):
        raise ValueError("no header")
    header = json.loads(mapped[8 : 8 + header_bytes])
    about = json.loads(header["__metadata__"]["slice"])
    if about["version"] != _VERSION:
        raise ValueError("another version")
    start, stop = (8 + header_bytes + int(at) for at in header[_GRAPH_TENSOR]["data_offsets"])
    # The graph comes last, so a file that ends with it is whole.
    if not 8 + header_bytes <= start <= stop == len(mapped):
        raise ValueError("cut short")
    info = SliceInfo(
        model=str(about["model"]),
        first_layer=int(about["first_layer"]),
        last_layer=int(about["last_layer"]),
        with_embedding=bool(about["with_embedding"]),
        with_head=bool(about["with_head"]),
        hidden_size=int(about["hidden_size"]),
        vocabulary_size=int(about["vocabulary_size"]),
        key_value_head_count=int(about["key_value_head_count"]),
        head_size=int(about["head_size"]),
        context_length=int(about["context_length"]),
        inverse_frequencies=tuple(float(value) for value in about["inverse_frequencies"]),
    )
    return info, mapped[start:stop]


def _rope_tables(inverse_frequencies: tuple[float, ...], positions: int) -> tuple[Floats, Floats]:
    """Cosines and sines `[positions, pairs]`, computed in float64 and rounded once."""
    angles = np.outer(np.arange(positions, dtype=np.float64), np.array(inverse_frequencies))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
