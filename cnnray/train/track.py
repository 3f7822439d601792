"""A run's figures for those who watch it elsewhere: TensorBoard always, MLflow where a server is named.

Both are written by the driver from the history in the state file, so they show what is really kept. After a kill
TensorBoard's files are written anew from the history; in MLflow the run is found by its tag and gone on with.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from cnnray import files
from cnnray.config import TrainConfig
from cnnray.errors import CnnrayError, OptionError, ServiceError
from cnnray.train.state import History

logger = logging.getLogger(__name__)

FIGURES = ("train_loss", "val_loss", "train_score", "val_score", "lr", "seconds")
EXPERIMENT, TAG = "cnnray", "cnnray.run"


class TensorBoard:
    """Scalars in event files that TensorBoard reads: figures by epoch, and the loss by step.

    Args:
        uri: folder of the event files; what is there is replaced.
    """

    def __init__(self, uri: str) -> None:
        from tensorboardX import SummaryWriter  # loads protobuf

        files.remove(uri)
        self._uri = uri
        self._folder = uri if files.is_local(uri) else tempfile.mkdtemp(prefix="cnnray-tensorboard-")
        self._writer = SummaryWriter(self._folder, write_to_disk=True)

    def log(self, row: Mapping[str, Any]) -> None:
        """Write one epoch."""
        epoch, losses = row["epoch"], row["step_losses"]
        for name in row.keys() & set(FIGURES):
            part, _, figure = name.partition("_")
            self._writer.add_scalar(f"{figure}/{part}" if figure else name, row[name], epoch + 1)
        for number, loss in enumerate(losses):
            self._writer.add_scalar("loss/step", loss, epoch * len(losses) + number + 1)
        self._writer.flush()

    def close(self) -> None:
        """End the files; a folder that is elsewhere gets its copy now."""
        self._writer.close()
        if self._folder != self._uri:
            fs, path = files.filesystem(self._uri)
            with files.storage_errors(self._uri):
                fs.put(self._folder, path, recursive=True)
            shutil.rmtree(self._folder)


class MLflow:
    """One MLflow run with the settings as parameters and the figures of every epoch as metrics.

    Args:
        tracking: URI of the server or folder.
        run: URI of the run folder, by which a run that was interrupted is found again.
        config: of the run.

    Raises:
        OptionError: the package is not installed.
        ServiceError: the server does not answer, or refuses.
    """

    def __init__(self, tracking: str, run: str, config: TrainConfig) -> None:
        try:
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise OptionError('--mlflow needs a package that is not here: pip install "cnnray[mlflow]"') from error
        self._failure: type[Exception] = MlflowException
        self._tracking = tracking
        self._logged = -1
        try:
            self._client = MlflowClient(tracking_uri=tracking)
            self._run = self._find(run) or self._start(run, config)
        except MlflowException as error:
            raise self._refused(error) from error

    def log(self, row: Mapping[str, Any]) -> None:
        """Send one epoch, unless an earlier attempt of the run did."""
        if row["epoch"] <= self._logged:
            return
        try:
            for name in row.keys() & set(FIGURES):
                self._client.log_metric(self._run, name, float(row[name]), step=row["epoch"] + 1)
        except self._failure as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """Mark the run as finished."""
        try:
            self._client.set_terminated(self._run)
        except self._failure as error:
            raise self._refused(error) from error

    def _find(self, run: str) -> str:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        found = experiment and self._client.search_runs([experiment.experiment_id], f"tags.`{TAG}` = '{run}'")
        if not found:
            return ""
        known = str(found[0].info.run_id)
        steps = [metric.step for metric in self._client.get_metric_history(known, FIGURES[-1])]
        self._logged = max(steps, default=0) - 1
        return known

    def _start(self, run: str, config: TrainConfig) -> str:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT)
        started = str(self._client.create_run(number, tags={TAG: run}, run_name=run.rpartition("/")[2]).info.run_id)
        for name, value in asdict(config).items():
            self._client.log_param(started, name, value)
        return started

    def _refused(self, error: Exception) -> ServiceError:
        return ServiceError(f"expected an MLflow store at {self._tracking}, but: {error}")


class Trackers:
    """All trackers of a run. One that fails while the run goes on is left out with a warning: training goes on.

    Args:
        folder: URI of the run folder.
        config: of the run.

    Raises:
        OptionError, ServiceError: MLflow is asked for, but not there.
    """

    def __init__(self, folder: str, config: TrainConfig) -> None:
        self._all: list[TensorBoard | MLflow] = []
        if config.mlflow:
            self._all.append(MLflow(config.mlflow, folder, config))
        self._all.append(TensorBoard(files.join(folder, "tensorboard")))
        self._count = 0

    def update(self, history: History) -> None:
        """Write the epochs that are new."""
        for row in history[self._count :]:
            self._each(lambda tracker, row=row: tracker.log(row))  # type: ignore[misc]
        self._count = len(history)

    def close(self) -> None:
        """End all."""
        self._each(lambda tracker: tracker.close())

    def _each(self, action: Callable[[TensorBoard | MLflow], None]) -> None:
        for tracker in list(self._all):
            try:
                action(tracker)
            except (CnnrayError, OSError) as error:
                self._all.remove(tracker)
                logger.warning("%s gets no more figures: %s", type(tracker).__name__, error)
