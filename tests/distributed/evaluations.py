"""What is evaluated in one process and in several, to be compared: a function for each case, with plain results."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import datasets
import numpy as np
import torch
import torch.distributed as dist
import torchmetrics
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import IterableDataset, get_worker_info

import loopwright
from loopwright.loop import assembling

WIDTHS = (3, 5, 2, 4, 6, 1, 5, 7, 2, 3, 4)


class Tagger(nn.Module):
    """Its loss is a mean over tokens and its outputs are as long as the batch: both depend on who is in one batch."""

    main_input_name = "tokens"

    def __init__(self, form="tuple"):
        super().__init__()
        self.form = form
        self.embedding = nn.Embedding(20, 8)
        self.linear = nn.Linear(8, 3)

    def forward(self, tokens, labels=None):
        hidden = self.embedding(tokens)
        logits = self.linear(hidden)
        found = {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())}
        if self.form == "plain":
            return found | {"logits": logits.mean(1)}
        if self.form == "scalar":
            return found | {"logits": logits.sum()}
        if self.form == "bfloat16":
            return found | {"logits": logits.bfloat16()}
        if self.form == "nested":
            return found | {"logits": {"all": logits, "two": (hidden.sum(1), hidden.argmax(-1).to(torch.int8))}}
        return found | {"logits": logits, "pooled": hidden.sum(1)}


def rows(count):
    generator = torch.Generator().manual_seed(count)
    return [
        {
            "tokens": torch.randint(20, (WIDTHS[number % len(WIDTHS)],), generator=generator).tolist(),
            "labels": torch.randint(3, (WIDTHS[number % len(WIDTHS)],), generator=generator).tolist(),
        }
        for number in range(count)
    ]


def collate(examples):
    def pad(name, value):
        parts = [torch.tensor(example[name]) for example in examples]
        return nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)

    return {"tokens": pad("tokens", 0), "labels": pad("labels", -100)}


def collate_single_labels(examples):
    batch = collate(examples)
    return {"tokens": batch["tokens"], "labels": batch["labels"][:, 0]}


class Pooled(nn.Module):
    """One label for each example, for metric objects; what it measures may be one number for each."""

    def __init__(self, regression=False):
        super().__init__()
        self.regression = regression
        self.embedding = nn.Embedding(20, 8)
        self.linear = nn.Linear(8, 3)

    def forward(self, tokens, labels=None):
        logits = self.linear(self.embedding(tokens).mean(1))
        loss = nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits[:, 0] if self.regression else logits}


def trainer(folder, model, **options):
    torch.manual_seed(0)
    model = model()
    parts = {name: options.pop(name) for name in tuple(options) if name in PARTS}
    parts.setdefault("data_collator", collate)
    arguments = {"per_device_eval_batch_size": 2, "use_cpu": True, "report_to": "none", "disable_tqdm": True} | options
    return loopwright.Trainer(model, loopwright.TrainingArguments(str(folder), **arguments), **parts)


PARTS = ("data_collator", "eval_dataset", "compute_metrics", "callbacks", "preprocess_logits_for_metrics")


def timeless(metrics):
    return {name: value for name, value in metrics.items() if not name.endswith(("_runtime", "_per_second"))}


def predicted(trainer, data):
    output = trainer.predict(data)
    return output.predictions, output.label_ids, timeless(output.metrics)


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() + str(array.shape)


def seen(prediction):
    """Return metrics that tell of everything that was handed over, and how much of it is padding."""
    found = {"rows": len(prediction.label_ids), "labels": digest(prediction.label_ids)}
    found["predictions"] = [digest(part) for part in prediction.predictions]
    if prediction.inputs is not None:
        found["inputs"] = digest(prediction.inputs)
    if prediction.losses is not None:
        found["losses"] = prediction.losses.tolist()
    return found


def counts(folder):
    one = trainer(folder, Tagger, compute_metrics=seen)
    return [predicted(one, rows(count)) for count in (7, 11, 8, 3, 1)]


def nothing(folder):
    return predicted(trainer(folder, Tagger, compute_metrics=seen), [])


def evaluations(folder):
    one = trainer(folder, Tagger, eval_dataset=rows(11), compute_metrics=seen, include_for_metrics=["inputs", "loss"])
    return timeless(one.evaluate()), timeless(one.evaluate(rows(3), metric_key_prefix="other"))


def losses_alone(folder):
    return timeless(trainer(folder, Tagger, eval_dataset=rows(7)).evaluate())


def several_datasets(folder):
    one = trainer(folder, Tagger, eval_dataset={"long": rows(9), "short": rows(2)}, compute_metrics=seen)
    return timeless(one.evaluate())


def forms(folder):
    models = [lambda form=form: Tagger(form) for form in ("plain", "scalar", "bfloat16", "nested")]
    return [predicted(trainer(folder, model), rows(7)) for model in models]


def batches_one_by_one(folder):
    return predicted(trainer(folder, Tagger, eval_do_concat_batches=False), rows(7))


def in_files(folder):
    spill = Path(folder, f"spill-{os.environ.get('RANK', '0')}")
    spill.mkdir()
    one = trainer(folder, Tagger, eval_spill_dir=str(spill), eval_accumulation_steps=2)
    found = predicted(one, rows(11))
    return found, list(spill.iterdir())


def in_many_messages(folder):
    before, assembling._BYTES_AT_ONCE = assembling._BYTES_AT_ONCE, 64
    try:
        one = trainer(folder, lambda: Tagger("nested"))
        return predicted(one, rows(11)), predicted(one, rows(5))
    finally:
        assembling._BYTES_AT_ONCE = before


def with_workers(folder):
    return predicted(trainer(folder, Tagger, dataloader_num_workers=2), rows(7))


class Stream(IterableDataset):
    """A stream that workers share out among themselves, unevenly."""

    def __init__(self, count):
        self.rows = rows(count)

    def __iter__(self):
        worker = get_worker_info()
        if worker is None:
            return iter(self.rows)
        return iter(self.rows[:7] if worker.id == 0 else self.rows[7:])


def streams(folder):
    one = trainer(folder, Tagger, compute_metrics=seen)
    found = [predicted(one, Stream(count)) for count in (7, 1, 10)]
    return found, predicted(trainer(folder, Tagger, dataloader_num_workers=2), Stream(11))


def hugging_face_streams(folder):
    whole = datasets.Dataset.from_list(rows(11))
    found = []
    for stream in (whole.to_iterable_dataset(4), whole.to_iterable_dataset(4).take(5), whole.to_iterable_dataset()):
        one = trainer(folder, Tagger, compute_metrics=seen, remove_unused_columns=False)
        found.append(predicted(one, stream))
    return found


def hugging_face_table(folder):
    return predicted(trainer(folder, Tagger, compute_metrics=seen), datasets.Dataset.from_list(rows(7)))


def metric_objects(folder):
    metrics = {
        "counts": torchmetrics.Accuracy("multiclass", num_classes=3, average="none"),
        "kept": torchmetrics.AUROC("multiclass", num_classes=3),
        "collection": torchmetrics.MetricCollection(
            [
                torchmetrics.F1Score("multiclass", num_classes=3),
                torchmetrics.Precision("multiclass", num_classes=3),
                torchmetrics.ConfusionMatrix("multiclass", num_classes=3),
            ]
        ),
    }
    found = {}
    for name, metric in metrics.items():
        one = trainer(folder, Pooled, compute_metrics=metric, data_collator=collate_single_labels)
        found[name] = [timeless(one.evaluate(rows(count))) for count in (7, 11, 7, 3, 1)]
    return found


def metric_objects_of_numbers(folder):
    """These keep means and variances, which are put together by a formula of their own: equal but for rounding."""
    found = []
    for metric in (torchmetrics.PearsonCorrCoef(), torchmetrics.MeanSquaredError(), torchmetrics.SpearmanCorrCoef()):
        one = trainer(
            folder,
            lambda: Pooled(regression=True),
            compute_metrics=FloatLabels(metric),
            data_collator=collate_single_labels,
        )
        found += [timeless(one.evaluate(rows(count))) for count in (11, 7)]
    return found


class FloatLabels(nn.Module):
    """A metric around another one, as torchmetrics' wrappers are."""

    def __init__(self, metric):
        super().__init__()
        self.metric = metric
        self.compute, self.reset = metric.compute, metric.reset

    def update(self, logits, labels):
        self.metric.update(logits, labels.float())


def batch_by_batch(folder):
    found = []
    for count in (7, 11, 3, 1):
        taken = []

        def measure(prediction, compute_result, taken=taken):
            logits, pooled = prediction.predictions
            taken.append([compute_result, prediction.losses.item(), prediction.inputs.tolist(), str(logits.dtype)])
            taken.append([digest(logits.numpy()), digest(pooled.numpy()), digest(prediction.label_ids.numpy())])
            return {"taken": list(taken)} if compute_result else {}

        one = trainer(
            folder, Tagger, compute_metrics=measure, batch_eval_metrics=True, include_for_metrics=["inputs", "loss"]
        )
        found.append(timeless(one.evaluate(rows(count))))
    return found


CASES = (
    counts,
    nothing,
    evaluations,
    losses_alone,
    several_datasets,
    forms,
    batches_one_by_one,
    in_files,
    in_many_messages,
    with_workers,
    streams,
    hugging_face_streams,
    hugging_face_table,
    metric_objects,
    metric_objects_of_numbers,
    batch_by_batch,
)


def all_cases(folder):
    found = {}
    for case in CASES:
        own = Path(folder, case.__name__)
        own.mkdir(parents=True, exist_ok=True)
        found[case.__name__] = case(own)
    return found


# What only several processes have.


class Calls(loopwright.TrainerCallback):
    def __init__(self):
        self.count = 0

    def on_prediction_step(self, args, state, control, **kwargs):
        self.count += 1


def where_things_happen(folder):
    """Return the steps that callbacks saw, how often metrics were asked for, and whether outputs are here."""
    calls, measured = Calls(), []
    one = trainer(
        folder, Tagger, callbacks=[calls], compute_metrics=lambda prediction: measured.append(1) or {"one": 1}
    )
    output = one.evaluation_loop(one.get_eval_dataloader(rows(11)), "Evaluation")
    return calls.count, len(measured), output.predictions is not None, output.num_samples, output.metrics["eval_one"]


def failing_metrics(folder):
    """Return what is raised where metrics fail on the first process, and that an evaluation works afterwards."""
    raised = []

    def fail(prediction, compute_result=True):
        raise ValueError("no such metric")

    def unsendable(prediction):
        return {"function": lambda: None}

    for metric, options in ((fail, {}), (fail, {"batch_eval_metrics": True}), (unsendable, {})):
        one = trainer(folder, Tagger, compute_metrics=metric, **options)
        try:
            one.evaluate(rows(11))
        except Exception as error:
            raised.append(f"{type(error).__name__}: {error}")
    return raised, timeless(trainer(folder, Tagger).evaluate(rows(5)))["eval_loss"]


def failing_prediction(folder):
    """Return what each process raises where the second fails in its second batch."""
    one = trainer(folder, Tagger)
    step = one.prediction_step
    count = 0

    def fail(*args, **kwargs):
        nonlocal count
        count += 1
        if count == 2 and os.environ["RANK"] == "1":
            raise ValueError("a bad batch")
        return step(*args, **kwargs)

    one.prediction_step = fail
    try:
        one.evaluate(rows(11))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.pooled = Pooled()

    def forward(self, tokens, labels=None):
        hidden = self.norm(self.pooled.embedding(tokens).mean(1))
        logits = self.pooled.linear(hidden)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def wrapped(folder):
    """Return the predictions of a wrapped model whose buffers differ: those of the first count, as in a checkpoint."""
    one = trainer(folder, Normed, data_collator=collate_single_labels)
    if "RANK" in os.environ:
        one.model_wrapped = DistributedDataParallel(one.model)
        one.model.norm.running_mean.fill_(float(os.environ["RANK"]))
    one.is_in_train = True
    return predicted(one, rows(7))


def only_in_several(folder):
    cases = (where_things_happen, failing_metrics, wrapped, failing_prediction)
    return {case.__name__: case(folder) for case in cases}


def own_loader(folder):
    """Evaluate through a loader that gives every process everything."""
    one = trainer(folder, Tagger)
    loader = torch.utils.data.DataLoader(rows(4), batch_size=2, collate_fn=collate)
    one.get_eval_dataloader = lambda dataset=None: loader
    return timeless(one.evaluate(rows(4)))


def unmergeable(folder):
    class Own:
        update = compute = reset = print

    try:
        trainer(folder, Tagger, compute_metrics=Own())
    except loopwright.errors.UnsupportedArgument as error:
        return str(error)


def refused_or_warned(folder):
    found = own_loader(folder), unmergeable(folder)
    dist.barrier()  # who leaves at once ends what the other is still making
    return found
