"""A job's life, top to bottom. The file to read first.

    parse -> starting -> stage in -> running -> payload -> stage out -> logs -> final report

Beside the flow, for as long as the job lives: the heartbeat (which brings the server's commands) and the log pump. A stage
that cannot go on raises; ``JobRun._outcome`` is the one place where that becomes an Outcome. The final report comes last,
because after it the server may hand out new work; only when the pilot itself must leave is it sent before the logs.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

from pilot.debug import STDOUT_MAX_BYTES, DebugMode, cut
from pilot.heartbeat import Heartbeat
from pilot.job.account import final_fields, proven
from pilot.job.errors import Diagnosis, PilotError, StageError
from pilot.job.model import ApiGeneration, Attempt, Job, MalformedJob
from pilot.job.outcome import Outcome, PayloadFacts, StopCause, failed, judge, outcome_record, with_error
from pilot.job.parse import parse_job, secret_texts, without_secrets
from pilot.job.replay import REPLAY_NAME, Replay, replay_document, replay_text
from pilot.job.report import FieldValue, Identity, StageTimes, update_fields
from pilot.job.states import JobState
from pilot.jobnotes import JobNotes, JobRecord
from pilot.outbox import Delivery, deliver_final, send_final, told_before
from pilot.ports import (
    Acquired,
    Follower,
    JobLogs,
    LogsStored,
    PandaServer,
    Payload,
    Question,
    ServerRefused,
    ServerUnreachable,
    Stager,
    UpdateAnswer,
)
from pilot.recovery import Unfinished, keep_secrets, kept_secrets, told_logs
from pilot.runtime.clock import server_time, utc_now
from pilot.runtime.events import log_to_file, redactor
from pilot.runtime.files import replace_atomically
from pilot.runtime.journal import Event, Journal
from pilot.runtime.loops import Helper, Helpers, run_stage
from pilot.runtime.payload_end import PayloadEnd, facts_of
from pilot.runtime.probe import Point, probe
from pilot.runtime.progress import board
from pilot.runtime.retry import RetryableError, RetryPolicy, retry_call
from pilot.runtime.secret import Secret
from pilot.runtime.stop import Stop, StopKind, Stopped, StopReason
from pilot.runtime.workdir import JobFolder, WorkVolume

logger = logging.getLogger("pilot.job")

T = TypeVar("T")

LOG_SHARE = 0.6  # of the shutdown time; the rest is the report's
# A deadline is running: the report goes before the logs.
HURRIED = frozenset({StopKind.SIGTERM, StopKind.SIGINT, StopKind.LIFETIME})
FULL_VOLUME_BYTES = 1 << 16  # what is left of a volume on which a write has just failed
NEVER_STARTED = Diagnosis(PilotError.INTERNAL, "the pilot was restarted before the payload was started")
START_RETRY = RetryPolicy("starting", tries=100_000, first_s=0.5, cap_s=20, total_s=600)


@dataclass(frozen=True)
class JobParts:
    """The real parts a job is run with; app.py makes them. Times in seconds."""

    server: PandaServer
    stager: Stager
    payload: Payload
    logs: JobLogs
    identity: Identity
    heartbeat_s: float
    server_silence_s: float
    start_wait_s: float
    final_retry_s: float
    shutdown_s: float
    preempted: Callable[[], bool]
    followers: tuple[Follower, ...] = ()


def run_job(
    acquired: Acquired,
    parts: JobParts,
    volume: WorkVolume,
    worker_stop: Stop,
    acquire_s: float = 0.0,
    refusal: Diagnosis | None = None,
) -> JobRecord | None:
    """Run one acquired job to its acknowledged final report; the job folder goes only then.

    ``refusal``: why it is not to be run at all (a job that was given to a pilot that may not work); it is reported failed.
    None when the answer held nothing that could be reported to anybody (no PandaID). When not even the job's folder,
    journal or log can be made, it is reported failed without them.
    """
    parsed = parse_job(acquired.definition)
    if parsed.attempt is None:
        logger.error("the server sent a job that names no PandaID: %s", parsed.diagnosis)
        return None
    folder, journal = JobFolder(volume.jobs / str(parsed.attempt)), None
    with ExitStack() as closing:
        closing.enter_context(redactor.knowing(Secret(text) for text in secret_texts(acquired.definition)))
        try:
            volume.open_job(parsed.attempt)
            journal = Journal(folder.journal, volume.release_reserve)
            closing.callback(journal.close)
            probe(Point.ACQUIRE_ANSWERED)
            journal.append(
                Event.ACQUIRED,
                attempt=[parsed.attempt.panda_id, parsed.attempt.attempt_nr],
                definition=without_secrets(acquired.definition),
                api=acquired.api.value,
                batch_id=parts.identity.batch_id,
            )
            probe(Point.ACQUIRED)
            keep_secrets(folder, secret_texts(acquired.definition))
            closing.enter_context(log_to_file(folder.pilot_log))
        except OSError as error:
            record = _report_without_log(parsed.attempt, acquired.api, parts, worker_stop, error, journal)
        else:
            room = volume.open_reserve_for_logs
            given = (acquired.definition, parsed, parsed.attempt, acquired.api)
            record = JobRun(*given, parts, folder, journal, acquire_s, room).live(worker_stop, refusal)
    _clear_away(record, folder, volume)
    return record


def finish_job(
    left: Unfinished, folder: JobFolder, parts: JobParts, volume: WorkVolume, worker_stop: Stop
) -> JobRecord | None:
    """Bring a job that an earlier pilot left in ``folder`` to its acknowledged report. None when there is nothing to tell.

    The job stays with the batch id and the API generation it was acquired with (server rules).
    """
    if left.settled:
        volume.archive(folder)
        return None
    parts = replace(parts, identity=replace(parts.identity, batch_id=left.batch_id))
    journal = None
    with ExitStack() as closing:
        try:
            closing.enter_context(redactor.knowing(map(Secret, kept_secrets(folder))))
            journal = Journal(folder.journal, volume.release_reserve)
            closing.callback(journal.close)
            closing.enter_context(log_to_file(folder.pilot_log))
        except OSError as error:
            record = _report_without_log(left.attempt, left.api, parts, worker_stop, error, journal, left.body)
        else:
            given = (left.definition, parse_job(left.definition), left.attempt, left.api)
            room = volume.open_reserve_for_logs
            record = JobRun(*given, parts, folder, journal, 0.0, room).resume(worker_stop, left)
    _clear_away(record, folder, volume)
    return record


def _clear_away(record: JobRecord, folder: JobFolder, volume: WorkVolume) -> None:
    """The job folder goes only when the server has acknowledged the final report."""
    if record.delivery.settled:
        probe(Point.CLEANING)
        _keep_unstored_bundle(record, folder, volume)
        run_stage("clear-away", lambda: volume.archive(folder), Stop())  # a million files take their time


class JobRun:
    """One job being run. ``live`` and ``resume`` are called from outside, one of them, once."""

    def __init__(
        self,
        definition: Mapping[str, Any],
        parsed: Job | MalformedJob,
        attempt: Attempt,
        api: ApiGeneration,
        parts: JobParts,
        folder: JobFolder,
        journal: Journal,
        acquire_s: float,
        make_room_for_logs: Callable[[], None],
    ) -> None:
        self._definition = definition
        self._attempt = attempt
        self._api = api
        self._parts = parts
        self._folder = folder
        self._journal = journal
        self._make_room_for_logs = make_room_for_logs
        log_url = parts.logs.url(attempt.panda_id)
        self._notes = JobNotes(attempt, parsed, parts.identity, log_url, StageTimes(acquire_s=acquire_s))
        self._debug = DebugMode(isinstance(parsed, Job) and parsed.debug)
        self._heartbeat = Heartbeat(
            parts.server,
            api,
            self._news,
            self._obey,
            lambda: self._debug.interval_s(parts.heartbeat_s),
            parts.server_silence_s,
            self._server_lost,
        )

    def live(self, worker_stop: Stop, refusal: Diagnosis | None = None) -> JobRecord:
        """The job's life, from its parsed definition; a short one, when there is a reason to refuse it."""
        if refusal is not None:
            return self._to_the_end(worker_stop, lambda _job, _helpers: failed(refusal))
        return self._to_the_end(worker_stop, self._stages)

    def resume(self, worker_stop: Stop, left: Unfinished) -> JobRecord:
        """The rest of a life that an earlier pilot began."""
        logger.info("job %s: an earlier pilot left it at %s", self._attempt, left.last_at)
        if left.body is not None:
            delivery = self._send(worker_stop, left.body, prepared=True)
            outcome = Outcome(JobState(str(left.body["job_status"])))
            return self._notes.record(outcome, delivery, told_logs(left.body, self._notes.parsed), ())
        lost = left.payload_started and left.outcome is None
        cause = self._laid_to_rest(left) if lost else NEVER_STARTED
        told = self._told_before(worker_stop)
        if told is not None:
            logger.warning("job %s: nothing more is reported of it: %s", self._attempt, told.value)
            return self._notes.record(left.outcome or failed(cause), told, LogsStored(None), ())
        notes = self._notes
        notes.usage, notes.isolation, notes.outputs = left.usage, left.isolation, left.outputs or ()
        return self._to_the_end(worker_stop, lambda job, helpers: self._rest_of_stages(job, helpers, left, cause))

    def _laid_to_rest(self, left: Unfinished) -> Diagnosis:
        try:
            return self._parts.payload.lay_to_rest(left.payload, self._folder)
        except (
            Exception
        ) as error:  # the boundary: the job is reported, whatever keeps its remains from being cleared up
            logger.error("job %s: what its payload left cannot be cleared up", self._attempt, exc_info=error)
            return Diagnosis(PilotError.INTERNAL, "the pilot was killed while the payload was running")

    def _told_before(self, worker_stop: Stop) -> Delivery | None:
        """Asked before anything is said: a pilot on a broken disk reports a job and leaves no word of it in the journal."""
        with worker_stop.grace(self._parts.shutdown_s) as grace:
            return told_before(self._parts.server, self._attempt, self._api, grace, self._parts.final_retry_s)

    def _to_the_end(self, worker_stop: Stop, stages: Callable[[Job, Helpers], Outcome]) -> JobRecord:
        """The stages, and what follows them whatever became of them: logs and report, in the order the stop allows."""
        logger.info("job %s: %s", self._attempt, self._notes.log_url)
        with (
            board.job_in_hand(self._notes.at(self._folder.logs)),
            worker_stop.child() as self._stop,
            worker_stop.grace(self._parts.shutdown_s * LOG_SHARE) as self._log_grace,
            worker_stop.grace(self._parts.shutdown_s) as self._grace,
            Helpers(self._stop) as helpers,
            Helpers(Stop()) as self._onlookers,  # no job ends for one of these
        ):
            outcome = _without_secrets(self._outcome(helpers, stages))
            logger.info("job %s: %s%s", self._attempt, outcome.state.value, _words(outcome))
            self._leave_replay(outcome)
            report_first = self._hurried() and outcome.state is JobState.FAILED
            logs = LogsStored(None) if report_first else self._store_logs(helpers, outcome)
            outcome = self._proven(outcome, logs)
            self._end_heartbeat(helpers)
            delivery = self._report(outcome, logs)
            if report_first:
                logs = self._store_logs(helpers, outcome)
        return self._notes.record(outcome, delivery, logs, (*helpers.abandoned, *self._onlookers.abandoned))

    # --- the stages ---------------------------------------------------------------------------------------------------

    def _outcome(self, helpers: Helpers, stages: Callable[[Job, Helpers], Outcome]) -> Outcome:
        """The stages up to stage-out, and the one place where an exception becomes an Outcome."""
        parsed = self._notes.parsed
        try:
            if isinstance(parsed, MalformedJob):
                return failed(parsed.diagnosis)
            return stages(parsed, helpers)
        except StageError as error:
            return failed(error.diagnosis)
        except Stopped as stopped:
            return failed(self._stop_diagnosis(stopped.reason))
        except OSError as error:
            return failed(_disk_diagnosis(error))
        except Exception as error:  # the boundary: a job is reported whatever breaks in a part
            logger.error("job %s: a part of the pilot failed", self._attempt, exc_info=error)
            return failed(Diagnosis(PilotError.UNKNOWN_EXCEPTION, f"{type(error).__name__}: {error}"))

    def _stages(self, job: Job, helpers: Helpers) -> Outcome:
        self._stop.check()
        probe(Point.FOLDER_MADE)
        self._start()
        self._pump = helpers.start("log-pump", self._follow_logs)
        self._beating = helpers.start("heartbeat", self._heartbeat.beat)
        for follower in self._parts.followers:
            self._onlookers.start(follower.name, partial(follower.follow, job, self._folder))
        self._notes.timed("stage_in_s", lambda: self._stage_in(job))
        outcome = self._run_payload(job)
        if outcome.state is JobState.FINISHED:
            outcome = self._stage_out(job, outcome)
        return outcome

    def _rest_of_stages(self, job: Job, helpers: Helpers, left: Unfinished, cause: Diagnosis) -> Outcome:
        """What is left to do of the stages; a payload is never started again. ``cause``: why it has no outcome."""
        if left.payload_started:
            self._heartbeat.announce(JobState.RUNNING)
        self._beating = helpers.start("heartbeat", self._heartbeat.beat)
        if left.outcome is None:
            return failed(cause)
        if left.outcome.state is JobState.FINISHED and left.outputs is None:
            return self._stage_out(job, left.outcome)
        return left.outcome

    def _start(self) -> None:
        """The payload starts only after the server has accepted ``starting`` without a kill (lease first, then work)."""
        policy = replace(START_RETRY, total_s=self._parts.start_wait_s)
        probe(Point.STARTING_ASKING)
        try:
            answer = run_stage("starting", lambda: retry_call(self._announce_start, policy, self._stop), self._stop)
        except RetryableError as trouble:
            self._stop.check()
            raise StageError(PilotError.COMMUNICATION_FAILURE, f"the start was not accepted: {trouble}") from trouble
        except ServerRefused as refusal:
            raise StageError(PilotError.INTERNAL, f"the server refuses the job's start: {refusal}") from refusal
        self._heartbeat.heard()
        probe(Point.STARTING_ACCEPTED)
        if self._obey(answer):
            self._heartbeat.answer_soon()
        self._stop.check()
        self._journal.append(Event.STARTING_ACCEPTED, durable=False)

    def _announce_start(self) -> UpdateAnswer:
        try:
            return self._parts.server.update(self._notes.fields(JobState.STARTING), self._api, self._stop)
        except ServerUnreachable as trouble:
            if self._stop.is_set():
                self._stop.check()
            raise RetryableError(str(trouble)) from trouble

    def _stage_in(self, job: Job) -> None:
        if job.inputs:
            run_stage("stage-in", lambda: self._fetch_inputs(job), self._stop)
            self._journal.append(Event.STAGE_IN_DONE, durable=False)

    def _fetch_inputs(self, job: Job) -> None:
        self._notes.sources = self._parts.stager.sources(job, self._stop)
        self._notes.inputs = self._parts.stager.stage_in(job, self._folder.work, self._stop)

    def _run_payload(self, job: Job) -> Outcome:
        prepared = self._notes.timed(
            "setup_s",
            lambda: run_stage("setup", lambda: self._parts.payload.prepare(job, self._folder, self._stop), self._stop),
        )
        self._notes.isolation = prepared.isolation
        self._leave_replay()
        probe(Point.PREPARED)
        self._stop.check()
        # Durable before exec: a successor that reads this never starts the payload again.
        self._journal.append(Event.PAYLOAD_STARTING, isolation=prepared.isolation, **prepared.mark)
        probe(Point.PAYLOAD_STARTING)
        end = self._notes.end = self._notes.timed("payload_s", lambda: prepared.run(self._stop, self._payload_started))
        self._notes.usage = end.usage
        outcome = _without_secrets(judge(self._facts(end)))
        self._note(Event.PAYLOAD_EXITED, outcome=outcome_record(outcome), usage=asdict(end.usage))
        probe(Point.PAYLOAD_EXITED)
        return outcome

    def _note(self, event: Event, *, durable: bool = True, **data: Any) -> None:
        """What has happened is worth more than the record of it: on a broken disk the job goes on, and its end is told."""
        try:
            self._journal.append(event, durable=durable, **data)
        except OSError as error:
            logger.warning("job %s: the journal cannot be written: %s", self._attempt, error.strerror)

    def _payload_started(self, pid: int) -> None:
        self._note(Event.PAYLOAD_PID, durable=False, pid=pid)
        self._heartbeat.announce(JobState.RUNNING)
        probe(Point.PAYLOAD_RUNNING)

    def _stage_out(self, job: Job, outcome: Outcome) -> Outcome:
        """Success is proven here: every declared output is stored and verified, under the grace scope."""
        if not job.outputs:
            return outcome
        try:
            self._notes.outputs = self._notes.timed(
                "stage_out_s",
                lambda: run_stage(
                    "stage-out", lambda: self._parts.stager.stage_out(job, self._folder.work, self._grace), self._grace
                ),
            )
        except StageError as error:
            return with_error(outcome, error.diagnosis)
        except Stopped as stopped:
            return with_error(outcome, self._stop_diagnosis(stopped.reason))
        self._note(Event.STAGE_OUT_DONE, files=[asdict(file) for file in self._notes.outputs])
        return outcome

    def _store_logs(self, helpers: Helpers, outcome: Outcome) -> LogsStored:
        self._end_pump(helpers)
        self._make_room_for_logs()
        account = self._notes.account(outcome)
        try:
            stored = self._notes.timed(
                "log_s",
                lambda: run_stage(
                    "logs", lambda: self._parts.logs.store(account, self._folder, self._log_grace), self._log_grace
                ),
            )
        except Stopped as stopped:
            return LogsStored(None, f"no time was left: {stopped}")
        except Exception as error:  # the boundary: the report goes out whatever became of the logs
            logger.error("job %s: its logs cannot be stored", self._attempt, exc_info=error)
            return LogsStored(None, f"{type(error).__name__}: {error}")
        return stored

    def _report(self, outcome: Outcome, stored: LogsStored) -> Delivery:
        """The final report: fixed, journalled, and sent until it is acknowledged."""
        body = {
            **self._notes.fields(outcome.state),
            **final_fields(self._notes.account(outcome), outcome, stored.bundle),
            "end_time": server_time(utc_now()),
        }
        return self._notes.timed("report_s", lambda: self._deliver(body, self._grace, prepared=False))

    def _send(self, worker_stop: Stop, body: Mapping[str, FieldValue], *, prepared: bool) -> Delivery:
        with board.job_in_hand(self._notes.at(self._folder.logs)), worker_stop.grace(self._parts.shutdown_s) as grace:
            return self._notes.timed("report_s", lambda: self._deliver(body, grace, prepared=prepared))

    def _deliver(self, body: Mapping[str, FieldValue], stop: Stop, *, prepared: bool) -> Delivery:
        return send_final(
            self._parts.server,
            self._journal,
            self._attempt,
            self._api,
            body,
            stop,
            self._parts.final_retry_s,
            prepared=prepared,
        )

    def _proven(self, outcome: Outcome, logs: LogsStored) -> Outcome:
        """The last word on it: whether the log is there that a finished job needs."""
        final = proven(outcome, self._notes.parsed, logs.bundle, redactor.clean(logs.problem))
        if final is not outcome:
            logger.error("job %s: %s after all%s", self._attempt, final.state.value, _words(final))
        return final

    def _leave_replay(self, outcome: Outcome | None = None) -> None:
        """What pilot-replay needs to run the job again, beside its logs. No job fails for want of it."""
        job, notes = self._notes.job, self._notes
        if job is None:
            return
        try:
            recipe, version = self._parts.payload.recipe(job), self._parts.identity.pilot_version
            replay = Replay(job, recipe, notes.isolation, notes.sources, outcome, version)
            document = replay_text(replay_document(replay, self._definition, redactor.clean))
            replace_atomically(self._folder.logs / REPLAY_NAME, document.encode(), mode=0o600)
        except OSError as error:  # a full volume
            logger.warning("job %s: %s is not written: %s", self._attempt, REPLAY_NAME, error.strerror)
        except Exception as error:  # the boundary: a help for people, and nothing that a job needs
            logger.warning("job %s: %s is not written", self._attempt, REPLAY_NAME, exc_info=error)

    # --- beside the flow ----------------------------------------------------------------------------------------------

    _pump: Helper | None = None
    _beating: Helper | None = None

    def _follow_logs(self, stop: Stop) -> None:
        self._parts.logs.follow(self._attempt, self._folder, stop)

    def _end_pump(self, helpers: Helpers) -> None:
        if self._pump is not None:
            helpers.finish(self._pump)

    def _end_heartbeat(self, helpers: Helpers) -> None:
        """The last helper to stop, and stopped before the final report: the server must hear nothing after that."""
        if self._beating is not None:
            helpers.finish(self._beating)

    def _obey(self, answer: UpdateAnswer) -> bool:
        """True when the server wants to see something of the job, and at once."""
        if answer.kill and self._stop.request(StopReason(StopKind.SERVER_KILL)):
            self._notes.happened("the server asked to kill the job")
            logger.warning("job %s: the server asks to kill it", self._attempt)
            probe(Point.KILL_RECEIVED)
        return self._debug.hear(answer.commands)

    def _server_lost(self, silent_for_s: float) -> None:
        """Past the server's own limit another attempt may be running: this one must not go on."""
        detail = f"no update was taken for {silent_for_s:.0f} s"
        if self._stop.request(StopReason(StopKind.SERVER_LOST, detail)):
            logger.error("job %s: %s, so it is stopped", self._attempt, detail)

    def _hurried(self) -> bool:
        reason = self._stop.reason
        return reason is not None and reason.kind in HURRIED

    # --- what is told -------------------------------------------------------------------------------------------------

    def _news(self, state: JobState) -> dict[str, FieldValue]:
        """What a heartbeat tells: with an operator looking on, what there is to see of the job too."""
        fields = self._notes.fields(state)
        try:
            answer = self._debug.answer(self._look)
        except Exception as error:  # the boundary: no job ends for an onlooker
            logger.error("job %s: an operator's command cannot be answered", self._attempt, exc_info=error)
            return fields
        if answer is not None:
            fields["stdout"] = cut(redactor.clean(answer), STDOUT_MAX_BYTES)
        return fields

    def _look(self, question: Question, most_bytes: int) -> str:
        return self._parts.payload.look(question, self._folder, most_bytes)

    def _facts(self, end: PayloadEnd) -> PayloadFacts:
        reason = end.stopped_by
        return facts_of(end, self._cause(reason) if reason else None, self._full_volume(end))

    def _full_volume(self, end: PayloadEnd) -> Diagnosis | None:
        """A payload that failed on a full volume failed of that; its own words may not even have found room."""
        if end.exit_code == 0 or end.stopped_by is not None or self._folder.free_bytes() > FULL_VOLUME_BYTES:
            return None
        words = f": {end.first_error}" if end.first_error else ""
        return Diagnosis(PilotError.NO_LOCAL_SPACE, f"the payload left the work volume full{words}")

    def _stop_diagnosis(self, reason: StopReason) -> Diagnosis:
        cause = self._cause(reason)
        facts = PayloadFacts(stop=cause, stop_detail=reason.detail)
        return judge(facts).pilot_error or Diagnosis(PilotError.INTERNAL, str(reason))

    def _cause(self, reason: StopReason) -> StopCause:
        if reason.kind is StopKind.SIGTERM and self._parts.preempted():
            return StopCause.PREEMPTED
        return _CAUSES.get(reason.kind, StopCause.INTERNAL)


_CAUSES: Mapping[StopKind, StopCause] = {
    StopKind.SIGTERM: StopCause.SIGTERM,
    StopKind.SIGINT: StopCause.SIGINT,
    StopKind.LIFETIME: StopCause.LIFETIME,
    StopKind.SERVER_KILL: StopCause.SERVER_KILL,
    StopKind.SERVER_LOST: StopCause.SERVER_LOST,
}


def _disk_diagnosis(error: OSError) -> Diagnosis:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    detail = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    return Diagnosis(PilotError.NO_LOCAL_SPACE if full else PilotError.FILE_HANDLING_FAILURE, detail)


def _without_secrets(outcome: Outcome) -> Outcome:
    """The outcome as it may be journalled, reported and shown: it quotes payloads, stores and servers."""
    error = outcome.pilot_error
    return replace(
        outcome,
        pilot_error=error and replace(error, detail=redactor.clean(error.detail)),
        exe_error_diag=redactor.clean(outcome.exe_error_diag),
        notes={name: redactor.clean(text) for name, text in outcome.notes.items()},
    )


def _words(outcome: Outcome) -> str:
    return f" ({outcome.pilot_error.code}: {outcome.pilot_error})" if outcome.pilot_error else ""


def _report_without_log(
    attempt: Attempt,
    api: ApiGeneration,
    parts: JobParts,
    worker_stop: Stop,
    error: OSError,
    journal: Journal | None,
    prepared: Mapping[str, FieldValue] | None = None,
) -> JobRecord:
    """The work volume takes no folder, journal or log: the job is reported all the same, journalled where that can be.

    ``prepared``: an earlier pilot's report; it may have been sent, so no other may follow it. Else the job has failed.
    """
    outcome = _without_secrets(failed(_disk_diagnosis(error)))
    log_url = parts.logs.url(attempt.panda_id)
    logger.error("job %s: nothing can be written for it: %s", attempt, outcome.pilot_error)
    body: Mapping[str, FieldValue] = update_fields(attempt, JobState.FAILED, parts.identity, log_url) | {
        "pilot_error_code": outcome.pilot_error.code if outcome.pilot_error else 0,
        "pilot_error_diag": str(outcome.pilot_error or ""),
    }
    if prepared is not None:
        body, outcome = prepared, Outcome(JobState(str(prepared["job_status"])))
    with worker_stop.grace(parts.shutdown_s) as grace:
        if journal is None:
            delivery = deliver_final(parts.server, attempt, api, body, grace, parts.final_retry_s)
        else:
            known = prepared is not None
            delivery = send_final(parts.server, journal, attempt, api, body, grace, parts.final_retry_s, prepared=known)
    return JobRecord(attempt, None, outcome, delivery, log_url)


def _keep_unstored_bundle(record: JobRecord, folder: JobFolder, volume: WorkVolume) -> None:
    """A log bundle that was reported and could not be stored stays on the volume, where a person can find it."""
    bundle = record.logs.bundle
    if bundle is None or record.logs.complete:
        return
    kept = volume.root / "unstored-logs"
    try:
        kept.mkdir(exist_ok=True)
        (folder.logs / bundle.lfn).rename(kept / f"{record.attempt}.{bundle.lfn}")
    except OSError as error:
        logger.warning("job %s: its unstored %s is lost: %s", record.attempt, bundle.lfn, error.strerror)
