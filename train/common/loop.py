"""The training loop of nano's phases: batches by number, on transformers' Trainer.

The loop itself is transformers' Trainer. A batch is a pure function of its number, so an interrupted run
that is resumed sees exactly the batches that it would have seen. Of N processes each takes every Nth
batch, and their gradients are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.utils import logging as transformers_logging

from egolive.train.common.processes import processes, together
from egolive.train.common.recipe import Phase
from egolive.train.common.run_files import last_checkpoint, writing_into
from egolive.train.common.training_clock import Clock

__all__ = ["Batches", "Loss", "fit"]

Tensors = dict[str, Tensor]
Loss = Callable[[nn.Module, Tensors], dict[str, Tensor]]
"""From a model and a batch to the named parts of the loss, which are summed."""


class Batches(Protocol):
    """Batch number `index` of a phase; the same for the same number."""

    def __getitem__(self, index: int) -> Tensors: ...


class _Steps(Dataset[Tensors]):
    def __init__(self, batches: Batches, count: int) -> None:
        self.batches = batches
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensors:
        return self.batches[index]


class _Measured(nn.Module):
    """A model whose forward pass is its loss: only what goes through one is averaged over processes."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, inputs: Tensors) -> dict[str, Tensor]:
        return self.loss(self.model, inputs)


class _Trainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Takes batches in order, logs the parts of the loss, and validates with a given function."""

    control: Any

    def __init__(self, *, loss: Loss, check: Callable[[], dict[str, float]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._loss = loss
        self._check = check
        self._parts: dict[str, list[float]] = {}
        self._trained = False

    def _get_train_sampler(self, train_dataset: _Steps | None = None) -> SequentialSampler:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def _wrap_model(
        self, model: nn.Module, training: bool = True, dataloader: DataLoader[Any] | None = None
    ) -> nn.Module:
        if training and torch.distributed.is_initialized():
            # A batch without a window, or without a box, leaves some weights out.
            return DistributedDataParallel(_Measured(self.model, self._loss), find_unused_parameters=True)
        wrapped: nn.Module = super()._wrap_model(model, training, dataloader)
        return wrapped

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Tensors,
        return_outputs: bool = False,
        num_items_in_batch: object = None,
    ) -> Any:
        with torch.autocast(inputs["device_of"].device.type, dtype=torch.bfloat16):
            several = isinstance(model, DistributedDataParallel)
            parts = model(inputs) if several else self._loss(model, inputs)
        self._trained = True
        for name, value in parts.items():
            self._parts.setdefault(name, []).append(float(value.detach()))
        total = torch.stack([value.float() for value in parts.values()]).sum()
        return (total, None) if return_outputs else total

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self._clock = Clock()
        return super().train(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_loss" in logs and not self._trained:
            # Of a run that was finished already it would say a loss of 0.
            return
        if "loss" in logs:
            means = {f"loss_{name}": sum(v) / len(v) for name, v in self._parts.items() if v}
            logs = {**logs, **{name: round(value, 4) for name, value in means.items()}}
            self._parts.clear()
        super().log(self._clock.stamp(logs, self.state.log_history), start_time)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # save_pretrained writes other names than the model's own, and the Trainer passes over names that it
        # does not know: it would go on with fresh weights.
        if isinstance(self.model, PreTrainedModel):
            with quiet():
                # It would report the heads below as unexpected.
                saved = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
            weights = saved.state_dict()
            # Heads that only training has are in the file under their own names.
            for path in Path(resume_from_checkpoint).glob("*.safetensors"):
                weights |= {
                    name: value
                    for name, value in load_file(path).items()
                    if name in self.model.state_dict() and name not in weights
                }
            self.model.load_state_dict(weights)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def evaluate(self, *_: object, **__: object) -> dict[str, float]:
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            found = {f"eval_{name}": round(value, 4) for name, value in self._check().items()}
        self.model.train(training)
        self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found


def _only(batch: list[Tensors]) -> Tensors:
    """A row of the data set is a whole batch already; `device_of` tells the loss where it ended up."""
    return {**batch[0], "device_of": torch.zeros(())}


def fit(
    model: nn.Module,
    batches: Batches,
    phase: Phase,
    *,
    loss: Loss,
    check: Callable[[], dict[str, float]],
    out: Path,
    seed: int,
    report_to: Sequence[str] = (),
) -> list[dict[str, float]]:
    """Train the parameters that require a gradient; go on from the last checkpoint in `out` if there is one.

    Each process takes a batch of its own in each step: batches are to hold its part of the rows. The parts of
    the loss in the log are those of the first process, the loss is the mean of all.

    Returns:
        The log: one record each 25 steps and each check.
    """
    together()
    settings = TrainingArguments(
        output_dir=str(out),
        max_steps=phase.steps,
        per_device_train_batch_size=1,
        learning_rate=phase.lr,
        weight_decay=phase.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.05},
        warmup_steps=max(1, round(phase.steps * 0.03)),
        logging_steps=min(25, phase.steps),
        eval_strategy="steps",
        eval_steps=phase.eval_every,
        save_steps=phase.save_every,
        save_total_limit=1,
        report_to=list(report_to),
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        dataloader_num_workers=1,
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        data_seed=seed,
    )
    # A batch is one row of the data set: nothing of it can be handed on to a second GPU of this process.
    settings._n_gpu = min(1, settings.n_gpu)
    steps = _Steps(batches, phase.steps * processes())
    trainer = _Trainer(
        model=model,
        args=settings,
        train_dataset=steps,
        eval_dataset=steps,
        data_collator=_only,
        loss=loss,
        check=check,
    )
    newest = last_checkpoint(out)
    if trainer.is_world_process_zero():
        done = f", {newest.rpartition('-')[2]} of them done" if newest else ""
        Console(stderr=True).print(
            f"{out}: {phase.steps} steps{done}", markup=False, highlight=False, soft_wrap=True
        )
    with writing_into(out):
        trainer.train(resume_from_checkpoint=newest)
    history: list[dict[str, float]] = trainer.state.log_history
    return history


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' warnings."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
