"""From images to a fine-tuned encoder: one call, which goes on where a killed one stopped.

out/
  weights.pth        the tensors of the plain network, without the head, for `encoder.checkpoint`
  finetuned.json     what was trained on what, and how; written last
  identity.json      what makes a run the same run
  training.ckpt      the newest state, while training lasts
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn

from deepclust.extraction.backbones import Backbone, build
from deepclust.extraction.encoder_catalog import EncoderSpec
from deepclust.extraction.image_source import ImageSource
from deepclust.extraction.weights import weights_digest
from deepclust.finetuning.encoder_module import EncoderModule
from deepclust.finetuning.finetune_settings import FinetuneSettings
from deepclust.finetuning.objectives import Labels, Objective
from deepclust.finetuning.training_images import Batches, TrainingImages, loader, one_line_of_workers, shuffled_batches
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import (
    CHECKSUMS,
    fingerprint,
    keep_checksums,
    read_json,
    remove_temporaries,
    write_json,
    written_whole,
)
from deepclust.runtime.locks import claimed
from deepclust.training.callbacks import NewestCheckpoint
from deepclust.training.checkpoint import CheckpointFile
from deepclust.training.trained import read_saved
from deepclust.training.trainer import make_trainer, quiet_lightning
from deepclust.training.trainer_settings import DEFAULT_TRAINER, TrainerSettings

ENCODER, REPORT, IDENTITY, STATE = "weights.pth", "finetuned.json", "identity.json", "training.ckpt"
LOCK = "run.lock"
# What a run that was killed at once has left.
BEFORE = (LOCK, CHECKSUMS)
# Of the head's weights as MAE's fine-tuning draws them.
HEAD_STD = 2e-5


@dataclass(frozen=True)
class FinetuneRun:
    """An encoder, the images it is trained on, and where the result goes.

    Attributes:
        spec: the encoder.
        source: the images, with labels where the objective wants them.
        settings: how it is trained.
        out: the folder of the result.
        trainer: on what device and in which precision.
        workers: processes that read images.
        on_error: for images that cannot be read: `skip` or `raise`.
        progress: print lines of progress.
    """

    spec: EncoderSpec
    source: ImageSource
    settings: FinetuneSettings
    out: Path
    trainer: TrainerSettings = DEFAULT_TRAINER
    workers: int = 0
    on_error: str = "skip"
    progress: bool = False

    def check(self) -> None:
        """Refuse what cannot be trained, before anything is read or written.

        Raises:
            InputError: for an encoder that is not timm's or not read at its end, images without labels or of one class,
                fewer than two images, and an `out` that holds something else or a finished encoder.
        """
        name = self.spec.name
        if self.spec.library != "timm":
            raise InputError(
                f"{name} is of {self.spec.library}, and timm's networks alone can be fine-tuned: choose one of these"
            )
        if self.spec.pooling != "own" or self.spec.layer is not None:
            raise InputError(
                f"{name} is trained as a whole, not with a pooling or layer of another kind: leave out encoder.pooling "
                "and encoder.layer"
            )
        if len(self.source) < 2:
            raise InputError(f"{self.source.name} has {len(self.source)} images: give 2 at least")
        if self.settings.objective == "labels":
            if self.source.labels is None:
                raise InputError(
                    f"{self.source.name} has no labels to fine-tune with: set data.labels=folders where sub-folders "
                    "are classes, or objective=tsp"
                )
            if self.n_classes < 2:
                raise InputError(f"{self.source.name} has one class alone: give images of two classes at least")
        self._check_out()

    def _check_out(self) -> None:
        if (self.out / REPORT).exists():
            raise InputError(f"{self.out} holds a finished encoder: choose another out=, or remove it")
        if (self.out / IDENTITY).exists():
            if read_json(self.out / IDENTITY).get("identity") != self.identity:
                raise InputError(
                    f"{self.out} holds training with other settings, images or another encoder: choose another out=, "
                    "or remove it"
                )
        elif self.out.exists() and (not self.out.is_dir() or any(one.name not in BEFORE for one in self.out.iterdir())):
            raise InputError(f"{self.out} exists and is no run of this command: choose another out=")

    @property
    def n_classes(self) -> int:
        """K, the number of classes."""
        labels = self.source.labels
        assert labels is not None
        return len(self.source.class_names or ()) or int(labels.max()) + 1

    @property
    def identity(self) -> str:
        """Digest of all that decides the result."""
        options = asdict(self.spec)
        if self.spec.checkpoint is not None and Path(self.spec.checkpoint).expanduser().is_file():
            status = Path(self.spec.checkpoint).expanduser().stat()
            options["checkpoint"] = [str(self.spec.checkpoint), status.st_size, status.st_mtime_ns]
        return fingerprint(options, asdict(self.settings), self.source.describe(), self.source.labels)

    def with_labels(self, test: ImageSource | None = None) -> dict[str, Any]:
        """Fine-tune with labels.

        Args:
            test: images on which the accuracy is measured at the end; None measures none.

        Returns:
            What `finetuned.json` says.

        Raises:
            InputError: as `check`; if the weights cannot be had, or the loss is not finite.
        """
        self.check()
        with self.in_folder():
            backbone, names = self.backbone(self.n_classes)
            head = backbone.network.get_classifier()  # type: ignore[operator]
            if isinstance(head, nn.Linear):
                nn.init.trunc_normal_(
                    head.weight, std=HEAD_STD, generator=torch.Generator().manual_seed(self.settings.seed)
                )
                nn.init.zeros_(head.bias)
            rows, n_batches = shuffled_batches(len(self.source), self.settings.batch_size, self.settings.seed)
            losses = self.fit(backbone, Labels(self.n_classes, self.settings), rows, n_batches)
            found = {} if test is None or test.labels is None else {"test_accuracy": self.accuracy(backbone, test)}
            return self.finish(backbone, names, losses, {"n_classes": self.n_classes, **found})

    @contextmanager
    def in_folder(self) -> Iterator[None]:
        """Claim the folder, and keep there what makes this run the same run."""
        with claimed(
            self.out / LOCK, f"another run is writing to {self.out}: wait for its end, or choose another out="
        ):
            self._check_out()  # asked again under the lock
            keep_checksums(self.out)
            remove_temporaries(self.out)
            write_json(self.out / IDENTITY, {"identity": self.identity})
            yield

    def backbone(self, n_outputs: int) -> tuple[Backbone, set[str]]:
        """The network with a new head of so many outputs, ready to train, and the names of the tensors without it."""
        options = dict(self.spec.model_options)
        if self.settings.drop_path:
            options["drop_path_rate"] = self.settings.drop_path
        try:
            backbone = build(replace(self.spec, model_options=options))
        except TypeError as error:  # of networks without stochastic depth
            raise InputError(f"{self.spec.name} takes no drop path ({error}): set drop_path=0") from None
        names = set(backbone.network.state_dict())
        torch.manual_seed(self.settings.seed)
        backbone.network.reset_classifier(n_outputs)  # type: ignore[operator]
        backbone.network.requires_grad_(True)
        return backbone, names

    @quiet_lightning()
    def fit(self, backbone: Backbone, objective: Objective, rows: Callable, n_batches: int) -> list[float]:
        """Train the network, from its newest state if there is one.

        Args:
            backbone: with its head.
            objective: what is learned.
            rows: batches of rows of each epoch, as in `Batches`.
            n_batches: how many they are.

        Returns:
            The loss of every epoch.
        """
        state = self.out / STATE
        saved = read_saved(state) if state.is_file() else None
        runner = make_trainer(
            self.trainer,
            max_epochs=self.settings.max_epochs,
            callbacks=[NewestCheckpoint(state, self.trainer.checkpoint_seconds)],
            checkpoint_io=CheckpointFile(saved),
        )
        module = EncoderModule(backbone.network.train(), objective, self.settings, n_batches, progress=self.progress)
        images = TrainingImages(self.source, backbone.transform, self.settings, self.on_error)
        batches = Batches(rows, n_batches, lambda: runner.current_epoch)
        on_gpu = runner.strategy.root_device.type == "cuda"
        with one_line_of_workers():
            runner.fit(
                module,
                loader(images, batches, self.workers, pin_memory=on_gpu),
                ckpt_path=None if saved is None else state,
            )
        if runner.received_sigterm:  # in the last batch, which Lightning takes for the end
            raise SIGTERMException
        return module.losses

    @torch.no_grad()
    def accuracy(self, backbone: Backbone, test: ImageSource) -> float:
        """Share of images whose label is the network's first guess; images as extraction cuts them."""
        network = backbone.network.eval().to(_device(self.trainer))
        size = min(self.settings.batch_size, len(test))

        def rows(epoch: int) -> Any:
            return (range(start, min(start + size, len(test))) for start in range(0, len(test), size))

        images = TrainingImages(test, backbone.transform, on_error=self.on_error)
        right = 0
        device = next(network.parameters()).device
        with one_line_of_workers():
            for images_B, labels_B in loader(images, Batches(rows, -(-len(test) // size)), self.workers):
                right += int((network(images_B.to(device)).argmax(dim=1).cpu() == labels_B).sum())
        return right / len(test)

    def finish(self, backbone: Backbone, names: set[str], losses: list[float], more: dict[str, Any]) -> dict[str, Any]:
        """Write the encoder and the report; the training state goes."""
        self.save_encoder(backbone, names)
        network = backbone.network
        network.reset_classifier(0)  # type: ignore[operator]
        report = {
            "encoder": {"name": self.spec.name, "model": self.spec.model, "weights": backbone.source},
            "settings": asdict(self.settings),
            "source": self.source.describe(),
            "n_images": len(self.source),
            "losses": losses,
            "sha256": weights_digest(network),
            **more,
        }
        write_json(self.out / REPORT, report)
        (self.out / STATE).unlink(missing_ok=True)
        return report

    def save_encoder(self, backbone: Backbone, names: set[str]) -> Path:
        """Write the tensors of the plain network: `names` are those without the head."""
        path = self.out / ENCODER
        tensors = {name: value.cpu() for name, value in backbone.network.state_dict().items() if name in names}
        with written_whole(path) as temporary:
            torch.save(tensors, temporary)
        return path


def _device(trainer: TrainerSettings) -> torch.device:
    on_gpu = torch.cuda.is_available() and trainer.accelerator != "cpu"
    return torch.device("cuda" if on_gpu else "cpu")
