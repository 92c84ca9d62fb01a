"""What a trainer does with loaders of every kind, and where there is no standard error."""

import pytest
from test_train import toy, toy_data

import minidl.functional as F
from minidl.data import DataLoader
from minidl.errors import DataError


def test_a_loader_of_unknown_length_trains(tmp_path):
    """The place of a loss that is not finite was worded, with the length, for every loss."""
    trainer = toy(tmp_path, epochs=1)
    chosen = (indices for indices in [[0, 1, 2], [3, 4]])
    trainer.loader = DataLoader(trainer.loader.dataset, batch_sampler=chosen)
    trainer.fit()
    assert trainer.steps == 2


def test_batches_of_any_form_reach_forward_whole(tmp_path):
    """Of a dict forward saw the keys, of a tensor its rows."""
    x, y = toy_data(8)
    rows = [{"x": a, "y": b.item()} for a, b in zip(x, y)]
    trainer = toy(tmp_path, epochs=1, count=lambda batch: 4)

    def forward(model, batch):
        logits = model(batch["x"])
        return F.cross_entropy(logits, batch["y"]), (logits.argmax(1) == batch["y"]).sum()

    def whole(model, batch):
        return model(batch).square().mean(), batch.sum() * 0

    for loader, step in ((DataLoader(rows, 4), forward), (DataLoader(list(x), 4), whole)):
        trainer.loader, trainer.forward, trainer.epoch = loader, step, 0
        trainer.fit()
    assert trainer.steps == 2 + 2


def test_a_loader_without_batches_is_refused(tmp_path):
    """Regression: its epochs passed without a word, of loss 0."""
    trainer = toy(tmp_path, epochs=1)
    trainer.loader = DataLoader(trainer.loader.dataset, 10**6, drop_last=True)
    with pytest.raises(DataError, match="Trainer: the loader gave no batch"):
        trainer.fit()


def test_training_needs_no_standard_error(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)  # as where a process begins with it closed
    trainer = toy(tmp_path, epochs=1)
    trainer.fit()
    assert trainer.finished
