"""Kills, damages and starves runs, and checks that each ends with the same numbers.

    python benchmarks/faults.py                       # everything; hours on a laptop
    python benchmarks/faults.py --only kills --kills 50
    python benchmarks/faults.py --only files --files 40
    python benchmarks/faults.py --job model_free --only kills files --no-figures

A tiny job is run once for reference: of a planner, and of an agent without a model.
Then each fault is done to a run of the same job, the run is started again, and what it
leaves is compared with the reference: the numbers of `summary.json`, `metrics.csv`, the
files of lines that seeds leave, and every episode record, to the last bit. The outcome
is `identical` (`and left alone` where the damaged file decides no number), `one clear
line` (the run was refused or stopped with a line that says why, and no traceback) or
`FAILED`. The exit code is 1 if any row failed. Linux only; as root also what needs
mounting.

Every start is the launcher's or `resume.py`'s own command in a process of its own,
forked from this one, which has the imports done and nothing computed.
"""

import argparse
import collections
import contextlib
import fnmatch
import json
import os
import pickle
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safex.training.files import read_arrays

ROOT = Path(__file__).resolve().parents[1]
LAUNCHER = ROOT / "experiments" / "launcher_pendulum.py"
RESUME = ROOT / "experiments" / "resume.py"
NAN = "SAFEX_FAULTS_NAN"
NOBODY = 65534
# Two seeds, and limits that are violated.
COMMON = (
    "preset=debug",
    "env.kind=benchmarks.faulty:FaultyPendulum",
    "env.speed_threshold=1",
    "render=false",
    "verbose=false",
)
# Three episodes, and a network to fit.
PLANNER = (
    "method=safe",
    "model=bnn",
    "horizon=3",
    "optimizer.num_iter=1",
    "optimizer.num_samples=8",
    "optimizer.num_elites=2",
    "model.features=[4]",
    "model.num_ensembles=2",
    "model.num_training_steps=8",
    "model.eval_frequency=4",
    "train.num_exploration_steps=50",
    "train.num_model_updates=2",
    "train.num_rollout_steps=10",
    "train.val_buffer_size=4",
)
# Ten rounds of two episodes, two of them random; evaluated after every other one.
MODEL_FREE = (
    "method=ddpg_lag",  # compiles fastest
    "env.max_steps=20",
    "cost_budget=4",
    "train.total_steps=400",
    "train.random_steps=80",
    "train.eval_every=2",
    "agent.features=[8]",
    "agent.batch_size=16",
)
# What the clock, the code's revision and the file itself say.
NOT_COMPARED = (
    "seconds",
    "seconds_of",
    "seconds_per_decision",
    "steps_per_second",
    "updates_per_second",
    "revision",
    "sha256",
)


class Tiny(NamedTuple):
    """A job to break.

    Attributes:
      settings: of its launch.
      lines: files of each seed that must be the same to the last byte.
      killed_after: a checkpoint of its second seed, after which it is killed to have an
        unfinished run; not the last one.
      idle: files of a seed that decide no number and are left alone when damaged.
      parts: what is done to it.
    """

    settings: tuple[str, ...]
    lines: tuple[str, ...]
    killed_after: str
    idle: str
    parts: tuple[str, ...]


JOBS = {
    "planner": Tiny(
        (*COMMON, *PLANNER),
        ("metrics.csv", "metrics.jsonl", "violations.jsonl"),
        "episode_0001.ckpt",
        "",
        ("kills", "files", "permissions", "disk", "network", "nan", "code"),
    ),
    "model_free": Tiny(
        (*COMMON, *MODEL_FREE),
        ("metrics.csv", "metrics.jsonl", "episodes.jsonl", "evaluations.jsonl"),
        "step_0120.ckpt",
        "*/episodes/*.npz",  # examples, for figures and videos
        ("kills", "files"),
    ),
}


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
      code: its exit code, negative for a signal.
      out: what it printed.
      err: what it printed on standard error.
      seconds: how long it took.
    """

    code: int
    out: str
    err: str
    seconds: float


class Row(NamedTuple):
    """A line of the table.

    Attributes:
      fault: what was done.
      times: how often.
      outcomes: how each of them ended.
    """

    fault: str
    times: int
    outcomes: list[str]

    @property
    def failed(self) -> bool:
        """Whether any of them did."""
        return any(outcome.startswith("FAILED") for outcome in self.outcomes)

    def text(self) -> str:
        """The outcomes, equal ones counted."""
        counts = collections.Counter(self.outcomes)
        if len(counts) == 1 and self.times == 1:
            return self.outcomes[0]
        return "\n".join(f"{count} {outcome}" for outcome, count in counts.items())


class Lab:
    """Where runs are broken: a folder, a reference run, one compilation cache.

    Args:
      folder: for everything that is made.
      seed: of the random moments and bytes.
      tiny: the job.
    """

    def __init__(self, folder: Path, seed: int, tiny: Tiny) -> None:
        self.folder, self.random, self.tiny = folder, random.Random(seed), tiny
        self.reference = folder / "reference"
        self._unfinished = folder / "unfinished"
        self._number = 0
        folder.mkdir(parents=True, exist_ok=True)
        # Processes of another user must be able to come here.
        folder.chmod(0o755)

    def new(self) -> Path:
        """A name that is not taken."""
        self._number += 1
        path = self.folder / f"run_{self._number:03d}"
        shutil.rmtree(path, ignore_errors=True)
        return path

    def launch(self, job: Path, *more: str) -> list[str]:
        """The launcher's command line."""
        settings = [*self.tiny.settings, f"results_dir={job}"]
        if not any(setting.startswith("wandb.mode=") for setting in more):
            settings.append("wandb.mode=disabled")
        return [str(LAUNCHER), *settings, *more]

    def resume(self, job: Path) -> list[str]:
        """The command line of `resume.py`."""
        return [str(RESUME), str(job)]

    def run(self, command: Sequence[str], **how: Any) -> Ended:
        """Runs a command to its end; arguments as of `start`."""
        process = Process(self.folder / "output", command, **how)
        return process.wait()

    def prepare(self) -> float:
        """Makes the reference run, and another beside it; returns its seconds.

        Both are made once for a folder.

        Raises:
          SystemExit: it cannot be made.
        """
        measured = self.folder / "seconds.txt"
        if measured.exists():
            return float(measured.read_text())
        if not (self.reference / "summary.json").exists():
            ended = self.run(self.launch(self.reference))
            if ended.code:
                sys.exit(f"the reference run failed:\n{ended.out}{ended.err}")
        again = self.new()
        ended = self.run(self.launch(again))
        outcome = self.compare(again)
        if ended.code or outcome != "identical":
            sys.exit(f"two undisturbed runs differ: {outcome}\n{ended.out}{ended.err}")
        shutil.rmtree(again)
        measured.write_text(f"{ended.seconds}\n")
        return ended.seconds

    def unfinished(self) -> Path:
        """A copy of a run that was killed in its second seed."""
        if not self._unfinished.exists():
            job = self.new()
            process = Process(self.folder / "output", self.launch(job))
            wanted = job / "seed_1" / "checkpoints" / self.tiny.killed_after
            while not wanted.exists() and process.running():
                time.sleep(0.001)
            process.kill()
            if (job / "summary.json").exists():
                sys.exit("the run was over before it could be killed")
            job.rename(self._unfinished)
        return Path(shutil.copytree(self._unfinished, self.new()))

    def finished(self) -> Path:
        """A copy of the reference."""
        return Path(shutil.copytree(self.reference, self.new()))

    def complete(
        self, job: Path, *, same_command: bool = False, damaged: str = ""
    ) -> str:
        """Starts a run again and says how that ended.

        Args:
          job: its folder.
          same_command: by the launcher's own command; if that says that `resume.py`
            will do what is missing, by that as well.
          damaged: the file that was; if it decides no number, it need not be mended.
        """
        ended = self.run(self.launch(job) if same_command else self.resume(job))
        if same_command and ended.code == 1 and "resume.py" in ended.err:
            ended = self.run(self.resume(job))
        outcome = self.judge(job, ended, damaged)
        if damaged and outcome == "identical" and f"{job}: complete" in ended.out:
            return "identical, and left alone"
        return outcome

    def judge(self, job: Path, ended: Ended, damaged: str = "") -> str:
        """`identical`, `one clear line: ...` or `FAILED: ...`."""
        if "Traceback" in ended.err:
            last = ended.err.strip().splitlines()[-1]
            return f"FAILED: a traceback that ends with {last}"
        if ended.code == 0:
            return self.compare(job, damaged)
        said = [line for line in ended.err.splitlines() if line.startswith("safex: ")]
        if len(said) != 1:
            return f"FAILED: code {ended.code} and {len(said)} lines: {ended.err!r}"
        return f"one clear line: {self.short(said[0], job)}"

    def short(self, line: str, job: Path) -> str:
        """A line without the folders of this machine."""
        line = line.removeprefix("safex: ")
        return line.replace(str(job), "JOB").replace(str(self.folder), "DIR")

    def compare(self, job: Path, damaged: str = "") -> str:
        """Whether a run has the numbers of the reference; `damaged` as above."""
        idle = damaged if fnmatch.fnmatch(damaged, self.tiny.idle) else ""
        try:
            one, other = (
                json.loads((folder / "summary.json").read_text())
                for folder in (self.reference, job)
            )
        except (OSError, ValueError) as error:
            return f"FAILED: summary.json: {error}"
        for name in one.keys() | other.keys():
            if name not in NOT_COMPARED and one.get(name) != other.get(name):
                return f"FAILED: other numbers in summary.json: {name}"
        for seed in sorted(self.reference.glob("seed_*")):
            for name in self.tiny.lines:
                path = job / seed.name / name
                if not path.exists():
                    return f"FAILED: {name} is not there"
                if path.read_bytes() != (seed / name).read_bytes():
                    return f"FAILED: {name} differs"
            for path in sorted((seed / "episodes").glob("*.npz")):
                record = path.relative_to(self.reference)
                if str(record) != idle and not _same_arrays(path, job / record):
                    return f"FAILED: {path.name} differs"
        return "identical"


class Process:
    """A command in a process forked from this one.

    Args:
      output: folder for what it prints.
      command: a script and its arguments.
      variables: of its environment.
      user: its user's number, None for ours.
    """

    def __init__(
        self,
        output: Path,
        command: Sequence[str],
        variables: Mapping[str, str] | None = None,
        user: int | None = None,
    ) -> None:
        output.mkdir(exist_ok=True)
        self._output = output
        self._code: int | None = None
        self._start = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _become(output, command, variables or {}, user)

    def running(self) -> bool:
        """Whether it has not ended yet."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is None

    def kill(self) -> None:
        """Ends it as a power cut would, by SIGKILL."""
        if self.running():
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self) -> Ended:
        """Waits for its end."""
        if self._code is None:
            _, status = os.waitpid(self.pid, 0)
            self._code = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - self._start
        out, err = (
            (self._output / name).read_text(errors="replace") for name in ("out", "err")
        )
        return Ended(self._code, out, err, seconds)


def _become(
    output: Path, command: Sequence[str], variables: Mapping[str, str], user: int | None
) -> None:
    """Turns a forked process into the command; does not return."""
    code = 1
    try:
        for number, name in ((1, "out"), (2, "err")):
            file = os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        os.environ.update(variables)
        os.chdir(output)
        if user is not None:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        sys.argv = list(command)
        runpy.run_path(command[0], run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(bool(error.code))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _import_all() -> None:
    """What every start needs; importing computes nothing, so a fork is safe."""
    import warnings  # noqa: PLC0415

    # JAX warns of every fork; its threads are made with its first computation.
    warnings.filterwarnings("ignore", message=r"os\.fork\(\)")
    import jax._src.xla_bridge  # noqa: PLC0415
    import matplotlib.pyplot  # noqa: F401, PLC0415

    import benchmarks.faulty  # noqa: F401, PLC0415
    import experiments.launching  # noqa: PLC0415
    import experiments.resume  # noqa: F401, PLC0415

    if jax._src.xla_bridge.backends_are_initialized():
        sys.exit("JAX computed something while it was imported; cannot fork any more")


def _same_arrays(one: Path, other: Path) -> bool:
    try:
        ours, theirs = read_arrays(one), read_arrays(other)
    except ValueError:
        return False
    return list(ours) == list(theirs) and all(
        (value.dtype, value.shape, value.tobytes())
        == (theirs[name].dtype, theirs[name].shape, theirs[name].tobytes())
        for name, value in ours.items()
    )


def kills(lab: Lab, options: argparse.Namespace) -> Iterator[Row]:
    """SIGKILL at random moments of a launch, and of what goes on from it."""
    outcomes: list[str] = []
    left, done, ended_first = options.kills, 0, 0
    while left > 0:
        job = lab.new()
        while left > 0:
            # The same command and resume.py in turns; that needs a job to find.
            resumes = (job / "config.yaml").exists() and done % 2 == 1
            command = lab.resume(job) if resumes else lab.launch(job)
            process = Process(lab.folder / "output", command)
            moment = time.monotonic() + lab.random.uniform(0, options.seconds)
            while time.monotonic() < moment and process.running():
                time.sleep(0.001)
            if not process.running():
                ended_first += 1
                break
            process.kill()
            left, done = left - 1, done + 1
        outcomes.append(lab.complete(job, same_command=len(outcomes) % 2 == 0))
        _clean(job, outcomes[-1])
    yield Row(
        f"SIGKILL, {done} times at random moments of {len(outcomes)} runs, each "
        f"started again until it is through ({ended_first} ended before the next kill)",
        len(outcomes),
        outcomes,
    )


def cut(path: Path, random: random.Random) -> None:
    """Leaves the first half."""
    del random
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path, random: random.Random) -> None:
    """Leaves nothing in it."""
    del random
    path.write_bytes(b"")


def flip(path: Path, random: random.Random) -> None:
    """Turns one bit over."""
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def delete(path: Path, random: random.Random) -> None:
    """Removes it."""
    del random
    path.unlink()


DAMAGES = {
    "cut to half": cut,
    "emptied": empty,
    "one bit flipped": flip,
    "deleted": delete,
}


def files(lab: Lab, options: argparse.Namespace) -> Iterator[Row]:
    """Each file of a finished and of an unfinished run, damaged in each way."""
    makers = {"unfinished": lab.unfinished, "finished": lab.finished}
    for state in options.state or makers:
        make = makers[state]
        example = make()
        names = sorted(
            str(path.relative_to(example))
            for path in example.rglob("*")
            if path.is_file() and path.stat().st_size
        )
        number_of_all = len(names)
        names = [name for name in names if fnmatch.fnmatch(name, options.match)]
        shutil.rmtree(example)
        for damage in options.damage or DAMAGES:
            do = DAMAGES[damage]
            number = options.files if options.files is not None else len(names)
            chosen = sorted(lab.random.sample(names, min(number, len(names))))
            outcomes = []
            for name in chosen * (options.flips if do is flip else 1):
                job = make()
                do(job / name, lab.random)
                outcome = lab.complete(
                    job, same_command=state == "unfinished", damaged=name
                )
                if outcome.startswith(("FAILED", "one")):
                    outcome = f"{outcome} ({Path(name).name})"
                outcomes.append(outcome)
                print(f"  {damage}: {name}: {outcome}", flush=True)
                _clean(job, outcome)
            if not outcomes:
                continue
            which = "every file" if len(chosen) == number_of_all else "files drawn"
            article = "an" if state == "unfinished" else "a"
            fault = f"{which} of {article} {state} run, one at a time, {damage}"
            yield Row(fault, len(outcomes), outcomes)


def permissions(lab: Lab, options: argparse.Namespace) -> Iterator[Row]:
    """Results that may not be written."""
    del options
    if os.geteuid() != 0:
        yield from _refused(
            lab,
            "results folder without write permission",
            lambda job: _chmod_folders(job, 0o555),
            lambda job: _chmod_folders(job, 0o755),
        )
        return
    if _can_be_nobody():
        job = lab.unfinished()
        yield Row("a run of another user", 2, _try_both(lab, job, user=NOBODY))
        yield Row("... the same run as its owner", 1, [lab.complete(job)])
    else:
        text = "a run of another user: not tried, nobody else can run this Python"
        yield Row(text, 0, [])
    yield from _refused(
        lab,
        "a run that nobody may change (chattr +i)",
        lambda job: _do("chattr", "-R", "+i", str(job)),
        lambda job: _do("chattr", "-R", "-i", str(job)),
    )
    yield from _refused(lab, "a read-only file system", _mount_read_only, _unmount)


def _refused(
    lab: Lab, what: str, lock: Callable[[Path], None], unlock: Callable[[Path], None]
) -> Iterator[Row]:
    """A run that is locked in some way, and then not any more."""
    job = lab.unfinished()
    try:
        lock(job)
    except OSError as error:
        yield Row(f"{what}: not tried, {error}", 0, [])
        return
    try:
        outcomes = _try_both(lab, job)
    finally:
        unlock(job)
    yield Row(what, 2, outcomes)
    yield Row("... the same run, writable again", 1, [lab.complete(job)])


def _chmod_folders(job: Path, mode: int) -> None:
    for folder in [job, *(path for path in job.rglob("*") if path.is_dir())]:
        folder.chmod(mode)


def _mount_read_only(job: Path) -> None:
    _do("mount", "--bind", str(job), str(job))
    _do("mount", "-o", "remount,ro,bind", str(job))


def disk(lab: Lab, options: argparse.Namespace) -> Iterator[Row]:
    """A file system that is full at several moments of a run, then has room again."""
    needed = lab.finished()
    if options.no_figures:
        shutil.rmtree(needed / "plots")
        (needed / "report.html").unlink()
    # A tmpfs gives whole pages, one to a folder's name as well.
    size = sum(-(-p.stat().st_size // 4096) * 4096 for p in needed.rglob("*"))
    shutil.rmtree(needed)
    for share in options.disk:
        bound = max(4096, int(size * share) // 4096 * 4096)
        mounted = lab.new()
        mounted.mkdir()
        try:
            _do("mount", "-t", "tmpfs", "-o", f"size={bound}", "tmpfs", str(mounted))
        except OSError as error:
            yield Row(f"a full disk: not tried, {error}", 0, [])
            return
        try:
            job = mounted / "job"
            full = lab.judge(job, lab.run(lab.launch(job)))
            if full == "identical":
                full = "FAILED: it had room"
            yield Row(f"disk of {bound // 1024} KiB ({share:.0%} of a run)", 1, [full])
            _do("mount", "-o", "remount,size=256m", str(mounted))
            yield Row(
                "... the same command when there is room",
                1,
                [lab.complete(job, same_command=True)],
            )
        finally:
            _unmount(mounted)


def network(lab: Lab, options: argparse.Namespace) -> Iterator[Row]:
    """A server of wandb that is not there."""
    del options
    job = lab.new()
    variables = {
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_API_KEY": "0" * 40,
        "HOME": str(lab.folder),
    }
    ended = lab.run(lab.launch(job, "wandb.mode=online"), variables=variables)
    outcome = lab.judge(job, ended)
    if outcome == "identical":
        kept = len(list(job.glob("wandb/wandb/offline-run-*")))
        if kept != 2 or "kept offline" not in ended.out:
            outcome = f"FAILED: {kept} offline runs of 2 seeds: {ended.out!r}"
    yield Row("wandb.mode=online, the server cannot be reached", 1, [outcome])


def nans(lab: Lab, options: argparse.Namespace) -> Iterator[Row]:
    """NaN in the observation, at random steps; then a sensor that works."""
    for chance in options.nan:
        job = lab.new()
        variables = {NAN: str(chance)}
        ended = lab.run(lab.launch(job), variables=variables)
        outcome = lab.judge(job, ended)
        if outcome == "identical":
            outcome = "FAILED: NaN went unnoticed"
        elif "the observation is not finite" not in ended.err:
            outcome = f"FAILED: NaN is not named: {ended.err!r}"
        else:
            reasons = [
                lab.short(line.strip(), job)
                for line in ended.err.splitlines()
                if "not finite" in line
            ]
            outcome = f"one clear line: {reasons[0]}"
        yield Row(f"NaN in {chance:.1%} of all observations", 1, [outcome])
        outcome = lab.complete(job, same_command=True)
        yield Row("... the same command with a sensor that works", 1, [outcome])


class _Payload:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple:
        return (os.system, (f"touch '{self._marker}'",))


def code(lab: Lab, options: argparse.Namespace) -> Iterator[Row]:
    """Files that would run code if anything unpickled or evaluated them."""
    del options
    marker = lab.folder / "executed"
    pickled = pickle.dumps(_Payload(marker))
    pickle.loads(pickled)  # It does what it is meant to.
    if not marker.exists():
        sys.exit("the payload does not work")
    marker.unlink()

    def sealed_pickle(path: Path) -> bytes:
        """With a header that says the payload is what was saved."""
        import hashlib  # noqa: PLC0415

        header = json.loads(path.read_bytes().partition(b"\n")[0])
        header["sha256"] = hashlib.sha256(pickled).hexdigest()
        return json.dumps(header).encode() + b"\n" + pickled

    def in_record(path: Path) -> None:
        with np.load(path) as arrays:
            fields = {name: arrays[name] for name in arrays.files}
        fields["obs"] = np.array([_Payload(marker)], dtype=object)
        np.savez(path, **fields)

    def in_config(path: Path) -> None:
        tag = f"!!python/object/apply:os.system [\"touch '{marker}'\"]"
        path.write_text(f"results_dir: {tag}\n" + path.read_text())

    def newest(job: Path) -> Path:
        # Of the seed that is not through; that of another is not read any more.
        return max((job / "seed_1" / "checkpoints").glob("*.ckpt"))

    def all_of(job: Path) -> None:
        for path in (job / "seed_1" / "checkpoints").glob("*.ckpt"):
            path.write_bytes(pickled)

    def replace(content: Callable[[Path], bytes]) -> Callable[[Path], None]:
        def do(job: Path) -> None:
            newest(job).write_bytes(content(newest(job)))

        return do

    cases: dict[str, Callable[[Path], None]] = {
        "a pickle behind a true header, digest right": replace(sealed_pickle),
        "pickles as all checkpoints of a seed": all_of,
        "a pickle in an episode record": lambda job: in_record(
            job / "seed_0" / "episodes" / "episode_001.npz"
        ),
        "a Python tag in config.yaml": lambda job: in_config(job / "config.yaml"),
    }
    for name, do in cases.items():
        job = lab.unfinished()
        do(job)
        by_yaml = "config.yaml" in name
        outcome = lab.complete(job, same_command=not by_yaml)
        if marker.exists():
            marker.unlink()
            outcome = "FAILED: it was executed"
        yield Row(f"{name} (would write a file if executed)", 1, [outcome])
        _clean(job, outcome)


PARTS: dict[str, Callable[[Lab, argparse.Namespace], Iterator[Row]]] = {
    "kills": kills,
    "files": files,
    "permissions": permissions,
    "disk": disk,
    "network": network,
    "nan": nans,
    "code": code,
}


def _clean(job: Path, outcome: str) -> None:
    """Removes a run, unless somebody will want to look at it."""
    if not outcome.startswith("FAILED"):
        shutil.rmtree(job)


def _try_both(lab: Lab, job: Path, **how: Any) -> list[str]:
    """The launcher's command, then `resume.py`, in a folder that takes neither."""
    commands = (lab.launch(job), lab.resume(job))
    outcomes = [lab.judge(job, lab.run(command, **how)) for command in commands]
    return [
        "FAILED: it could be written" if outcome == "identical" else outcome
        for outcome in outcomes
    ]


def _can_be_nobody() -> bool:
    """Whether another user may read this Python and its packages."""
    command = [sys.executable, "-c", "import encodings.cp437, hydra, jax"]
    try:
        done = subprocess.run(
            command,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            cwd="/",
            check=False,
            capture_output=True,
        )
    except OSError:
        return False
    return done.returncode == 0


def _do(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise OSError(f"there is no {command[0]} here") from error
    if done.returncode:
        raise OSError(f"{command[0]} is refused here ({done.stderr.strip()})")


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", str(folder)], check=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 1 if anything failed."""
    options = _parse(argv)
    console = Console(width=160)
    folder = options.folder.resolve()
    cache = folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    _import_all()
    if options.no_figures:
        from safex.training import model_free_report, report  # noqa: PLC0415

        for module in (report, model_free_report):
            mock.patch.object(module, "write_figures").start()
    start = time.monotonic()
    rows = []
    for name in options.job or JOBS:
        lab = Lab(folder / name, options.seed, JOBS[name])
        options.seconds = lab.prepare()
        console.print(f"{name}: an undisturbed run takes {options.seconds:.1f} s")
        for part in options.only or JOBS[name].parts:
            if part not in JOBS[name].parts:
                continue
            for row in PARTS[part](lab, options):
                rows.append(row._replace(fault=f"{name}: {row.fault}"))
                console.print(
                    f"{rows[-1].fault} | {row.times} | {row.text()}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
    table = Table("what was done", "times", "outcome", show_lines=True)
    for row in rows:
        table.add_row(row.fault, str(row.times), row.text().replace("[", r"\["))
    console.print(table)
    failed = sum(row.failed for row in rows)
    minutes = (time.monotonic() - start) / 60
    console.print(f"{failed} of {len(rows)} rows FAILED; {minutes:.0f} minutes")
    return int(failed > 0)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--job", nargs="+", choices=list(JOBS), help="jobs to break (default: all)"
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="parts to run")
    parser.add_argument("--kills", type=int, default=50, help="default: 50")
    parser.add_argument(
        "--files",
        type=int,
        metavar="N",
        help="damage N files, drawn at random, of each state and in each way "
        "(default: all)",
    )
    parser.add_argument(
        "--match",
        default="*",
        metavar="PATTERN",
        help="damage only files of such a name, e.g. '*/metrics.*' (default: all)",
    )
    parser.add_argument(
        "--damage",
        nargs="+",
        choices=list(DAMAGES),
        metavar="KIND",
        help=f"one or more of {', '.join(map(repr, DAMAGES))} (default: all)",
    )
    parser.add_argument(
        "--state",
        nargs="+",
        choices=["unfinished", "finished"],
        help="of the runs whose files are damaged (default: both)",
    )
    parser.add_argument(
        "--flips", type=int, default=3, help="bits tried in each file (default: 3)"
    )
    parser.add_argument(
        "--disk",
        type=float,
        nargs="+",
        default=[0.02, 0.1, 0.3, 0.7, 0.95],
        metavar="SHARE",
        help="sizes of the full disk, as shares of what a run needs",
    )
    parser.add_argument(
        "--nan", type=float, nargs="+", default=[0.01, 1.0], metavar="CHANCE"
    )
    parser.add_argument(
        "--no-figures",
        action="store_true",
        help="leave them out of every run, for half the time; they are not compared",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is random here")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "safex-faults",
        help="for runs and the compilation cache; a reference in it is used again",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
