"""From a job's replay.json and what a person gives to how its payload is run here; and what is not as it was, in sentences.

The document is hostile, so nothing in it opens this machine: its variables are treated as CRIC's are (none that loads code
into programs), its image must be fetched from somewhere or be named by the person, and nothing of this machine is bound
that the person, or the person's own settings file, does not name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pilot.job.errors import ExitCode, PilotCannotWork
from pilot.job.model import Checksum
from pilot.job.replay import Recipe, Replay
from pilot.payload.apptainer import Bind, accepted_options
from pilot.payload.image import REMOTE_SCHEMES
from pilot.payload.rungs import Level
from pilot.payload.runtime import PayloadConfig
from pilot.runtime.secret import Secret

RuntimeChoice = Literal["auto", "apptainer", "plain"]


@dataclass(frozen=True, slots=True)
class Given:
    """What the person decides. ``variables``: given by name (``--env``), or by the person's own settings of the queue.

    ``image``: instead of the recorded one; ``queue_image``: what the person's settings name for the queue.
    """

    folder: Path
    image_cache: Path
    image: str | None = None
    queue_image: str | None = None
    runtime: RuntimeChoice = "auto"
    required: Level = Level.C
    user: str | None = None
    binds: tuple[Bind, ...] = ()
    variables: Mapping[str, str | Secret] = field(default_factory=dict)
    private: tuple[Path, ...] = ()
    image_key: Path | None = None
    transform_bases: tuple[str, ...] = ()
    ca_path: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How the payload is run here, and what a person should know of it, a sentence each."""

    config: PayloadConfig
    notes: tuple[str, ...]


def require_command(found: Replay) -> None:
    """Raises PilotCannotWork for a job whose command is not known as it was."""
    if found.lost_command:
        raise PilotCannotWork(
            ExitCode.USAGE,
            f"{found.lost_command} of the job held a secret, which the logs do not, so that the command is not known as it was: "
            "--shell opens a shell where it ran",
        )


def plan(found: Replay, given: Given) -> Plan:
    """Raises PilotCannotWork with what must be given."""
    recipe = found.recipe
    image, checksum = _image(recipe, given)
    binds, flags, _refused = accepted_options(recipe.queue.container_options)
    limits = recipe.limits
    config = PayloadConfig(
        queue=replace(recipe.queue, environment=recipe.environment, container_options=" ".join(flags)),
        image_cache=given.image_cache,
        transforms=given.folder / "transforms",
        runtime="plain" if image is None else given.runtime,
        image=image,
        binds=given.binds,
        transform_bases=given.transform_bases,
        ca_path=given.ca_path,
        realtime_logfiles=recipe.realtime_logfiles,
        credentials=given.variables,
        grace_s=recipe.grace_s,
        pod_memory_bytes=limits.container_memory_bytes,
        disk_limit_bytes=limits.disk_limit_bytes,
        looping_s=limits.looping_s,
        max_processes=limits.max_processes,
        max_inodes=limits.max_inodes,
        max_stdout_bytes=limits.max_stdout_bytes,
        required=given.required,
        user=given.user,
        private=given.private,
        own_containers=recipe.own_containers,
        image_key=given.image_key,
        image_checksum=checksum,
    )
    return Plan(config, tuple(_notes(recipe, given, binds)))


def _image(recipe: Recipe, given: Given) -> tuple[str | None, Checksum | None]:
    """The image to run in, None without one; the checksum is the recorded image's alone. Raises PilotCannotWork."""
    if given.runtime == "plain" or (not recipe.image and not given.image):
        return None, None
    if given.image:
        return given.image, None
    if recipe.image.partition("://")[0].lower() in REMOTE_SCHEMES:
        return recipe.image, recipe.image_checksum
    if given.queue_image:
        return given.queue_image, None
    raise PilotCannotWork(
        ExitCode.USAGE,
        f"the job ran in {recipe.image[:300]!r}, a file of its node, and no path that a log names is used here: give the image "
        "with --image",
    )


def _notes(recipe: Recipe, given: Given, of_queue: tuple[Bind, ...]) -> Iterator[str]:
    missing = [name for name in recipe.hidden if name not in given.variables]
    if missing:
        yield (
            f"left out, because it is secret: {', '.join(missing)}; --env NAME takes one from your environment, "
            "--env NAME=VALUE sets it"
        )
    targets = {bind.target for bind in given.binds}
    unbound = [text for text in (*recipe.binds, *map(str, of_queue)) if _target(text) not in targets]
    if unbound:
        yield f"not bound here: {', '.join(unbound)}; --bind SOURCE:TARGET[:ro] binds what you have in its place"
    if given.image and given.image != recipe.image:
        yield f"the image is yours; the job ran {f'in {recipe.image}' if recipe.image else 'without one'}"
    elif recipe.image and given.runtime == "plain":
        yield f"without a container (--runtime plain); the job ran in {recipe.image}"
    elif recipe.image and recipe.image_checksum is None:
        yield f"no checksum of {recipe.image} was recorded: it may have been replaced since"


def _target(bind: str) -> str:
    parts = bind.removesuffix(":ro").removesuffix(":rw").split(":")
    return parts[-1]
