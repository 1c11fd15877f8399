"""One Lightning fit of one group of stages, each with a fresh Trainer, module, optimizer and callback."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pytorch_lightning as pl
from torch import Tensor, nn

from src.config import Config, TrainerConfig
from src.evaluation.heads import test_mask
from src.stopping.rule import GroupStopping, StoppingVerdict
from src.training.devices import Device, trainer_arguments
from src.training.feed import Epochs, Feed, ResidentFeed, make_feed
from src.training.graph.choice import eager_reason, form_of, kind_of_update, log_once
from src.training.graph.updates import GraphedUpdates
from src.training.losses import SampleLosses
from src.training.module import GroupModule
from src.training.monitor import GroupControl, StageMonitor
from src.training.plan import Node
from src.training.replicas import PenaltyTerm, Replicas, trainable_names
from src.training.result import ResumePoint, StageResult
from src.training.scoring import Scorer, monitor_values
from src.training.starting import without_new_rows

UPDATES_AT_ONCE = 32
"""Number of updates per Lightning batch. A chunk never spans two epochs."""


def fit(
    config: Config,
    nodes: Sequence[Node],
    models: Sequence[nn.Module],
    device: Device,
    *,
    starts: Sequence[ResumePoint] | None = None,
    optimizer_states: Sequence[Mapping[str, Tensor]] | None = None,
    penalty: PenaltyTerm | None = None,
    losses: SampleLosses | None = None,
    observer: Callable[[Replicas], None] | None = None,
    control: GroupControl | None = None,
    keep_optimizer: bool = False,
) -> list[StageResult]:
    """Trains stages of equal shape side by side, starting from the weights in `models`.

    Args:
        starts: resume points after equally many updates; they replace the weights in `models`.
        optimizer_states: inherited states, for stages with `reset_optimizer=False`.
        losses: the loss of every sample; None: that of `losses_of`.
        observer: called before every update.
        control: interrupts the fit; None: it cannot be interrupted.
        keep_optimizer: put the final optimizer states into the results.

    Returns:
        One result per node, with a resume point where a longer stage can go on from its end.
    """
    started = time.perf_counter()
    first = nodes[0]
    if starts:
        optimizer_states = [start.optimizer for start in starts]
        for model, start in zip(models, starts, strict=True):
            model.load_state_dict(dict(start.weights))
    elif optimizer_states:
        each = zip(nodes, models, optimizer_states, strict=True)
        optimizer_states = [without_new_rows(node, model, state) for node, model, state in each]
    n_done = starts[0].updates if starts else 0
    models = [model.to(device.dtype) for model in models]
    form = form_of(config, models[0], first.stream.input_shape, device)
    trained = trainable_names(models[0], first.stage.trainable)
    replicas = form.replicas(models, trained, min(first.length.batch_size, first.length.n_draws))
    mask = test_mask(config.split.heads, first.stream)
    scorer = Scorer(
        [node.stream.val.pools for node in nodes], first.stream.n_outputs, config.loss, device, mask, first.outputs
    )
    data = [node.data for node in nodes]
    feed = make_feed(data, first.length, device, config.trainer.resident_mib, n_done, config.augment)
    module = GroupModule(
        replicas,
        config,
        first,
        device.world,
        n_done,
        penalty,
        losses,
        optimizer_states,
        observer,
        is_capturable=form.capture is not None,
    )
    module.eager_reason = form.reason if form.capture is None else eager_reason(config, feed, observer)
    graphed: GraphedUpdates | None = None
    if module.eager_reason is not None:
        log_once(module.eager_reason)
    elif form.capture is not None:
        assert isinstance(feed, ResidentFeed)
        kind = kind_of_update(config, first, replicas)
        graphed = GraphedUpdates(module, feed, form.capture, config.trainer.precision, kind)
        module.train_graphed = graphed.train

    monitors = [scorer.weights(r, node.monitor) for r, node in enumerate(nodes) if node.monitor is not None]

    def measured() -> list[float]:
        """The stopping rule's value of every model, smaller is better."""
        measurement = config.stopping.measurement
        assert measurement is not None
        if measurement.data == "training":
            values = module.training_values(feed, measurement.quantity)
        else:
            values = monitor_values(scorer.score(replicas), monitors, measurement.quantity)
        return [-value for value in values] if measurement.quantity == "accuracy" else values

    n_epochs = first.length.n_epochs
    monitor = StageMonitor(
        module=module,
        nodes=nodes,
        device=device,
        stopping=GroupStopping(config.stopping, n_epochs, measured, replicas.states),
        score=lambda: scorer.score(replicas),
        curve_points=config.trainer.curve_points,
        started=started,
        starts=starts,
        control=control,
        keep_optimizer=keep_optimizer,
        keep_resume_point=first.prefix_key is not None and first.length.whole_epochs,
    )
    if starts:
        monitor.resume(starts)
    if first.length.updates:
        _train(config.trainer, monitor, feed, graphed, n_epochs - n_done // first.length.updates_per_epoch)
    else:  # no training at all: the weights are scored as they are
        monitor.ends = {model: (StoppingVerdict("length"), 0) for model in range(len(nodes))}
        replicas.to(device.torch_device)
        monitor.points.append((0, True, scorer.score(replicas)))
    return [monitor.result(r, state) for r, state in enumerate(replicas.states())]


def _train(
    trainer: TrainerConfig, monitor: StageMonitor, feed: Feed, graphed: GraphedUpdates | None, n_epochs: int
) -> None:
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    module, device = monitor.module, monitor.device
    with warnings.catch_warnings():
        # the feed is an iterable of whole batches, so advice on loaders and their workers does not apply
        warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")
        # torch's advice on updates before the recording, and on gradients of a penalty, which come from another stream
        # than the rest of the model's
        warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
        warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream does not match")
        lightning = pl.Trainer(
            max_epochs=n_epochs,
            callbacks=[monitor],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            **trainer_arguments(trainer, device),
        )
        if graphed is not None:
            assert isinstance(feed, ResidentFeed)
            try:
                lightning.fit(module, train_dataloaders=Epochs(feed.index_chunks))
            finally:
                graphed.release()
        else:
            size = 1 if device.world > 1 else UPDATES_AT_ONCE
            lightning.fit(module, train_dataloaders=Epochs(partial(feed.chunks, size)))
    if lightning.interrupted:
        raise KeyboardInterrupt
    assert module.n_done == monitor.nodes[0].length.updates or lightning.should_stop
