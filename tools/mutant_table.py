"""The scope of the sampled mutation run: cosmic-ray's operators, and the tests per source module, quickest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

OPERATORS = (
    "ReplaceComparisonOperator",
    "ReplaceBinaryOperator",
    "ReplaceUnaryOperator",
    "AddNot",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ExceptionReplacer",
    "NumberReplacer",
    "RemoveDecorator",
    "ZeroIterationForLoop",
)
"""Prefixes of operator names: all of cosmic-ray's that need no arguments."""

_GOLDEN, _CONTENT, _WRITE, _CLI = ("test_log_golden", "test_log_content", "test_log_write_read", "test_log_cli")
_UNITS, _STORAGE, _MESSAGES = "test_log_units", "test_log_storage", "test_log_messages"
_FOLD = tuple(
    f"test_log_fold::{name}"
    for name in (
        "test_small_commits_are_joined_and_large_ones_left_where_they_lie",
        "test_a_fold_lives_through_a_compaction",
        "test_runs_follow_each_other_and_stay_apart",
        "test_a_fold_is_given_what_was_written",
    )
)
_EOD = tuple(
    f"test_eod_steps::{name}"
    for name in (
        "test_fold_and_fold_again",
        "test_progress_ends_at_its_total",
        "test_large_tables_are_kept_on_demand",
        "test_profit_is_reported_in_cents",
        "test_a_version_is_named_by_its_last_second",
        "test_only_a_reopened_date_keeps_earlier_episodes",
        "test_nothing_is_deleted_without_being_asked",
        "test_not_confirmed",
        "test_the_list_comes_first",
        "test_deleted_date_is_done",
        "test_differing_episode_files_stop_deletion",
        "test_several_differing_files_are_counted",
        "test_files_of_other_toggles_are_not_differences",
        "test_what_nothing_replaces_stays",
        "test_file_that_appears_after_the_list_stays",
        "test_links_are_never_followed",
        "test_an_altered_list_cannot_reach_out",
        "test_reopened_after_deletion",
        "test_lost_memory_comes_back",
        "test_folding_an_earlier_day_again_changes_nothing",
        "test_killed_while_deleting[3]",
    )
)
_READ_BACK = tuple(
    f"test_power_cut_eod::{name}"
    for name in (
        "test_a_version_keeps_its_content",
        "test_a_disk_that_keeps_other_bytes",
        "test_memory_is_read_back_before_anything_points_to_it",
        "test_kept_episodes_are_read_back",
        "test_a_list_of_another_log_is_not_carried_out",
        "test_deleting_goes_on_only_with_proof",
    )
)
TESTS: dict[str, tuple[str, ...]] = {
    "files": ("test_files", _GOLDEN, _CLI),
    **dict.fromkeys(
        (
            "eventlog/storage/prefetch",
            "eventlog/storage/format",
            "eventlog/storage/sealed_lines",
            "eventlog/storage/sequence_checks",
            "eventlog/storage/damage",
        ),
        (_STORAGE, _GOLDEN, _CLI, _WRITE),
    ),
    **dict.fromkeys(
        ("eventlog/storage/message_layout", "eventlog/storage/batch_messages", "eventlog/storage/ipc_streams"),
        (_MESSAGES, _GOLDEN, _CLI, _WRITE),
    ),
    "eventlog/storage/content_hash": (
        f"{_CONTENT}::test_content_hash_is_what_it_was",
        f"{_CONTENT}::test_content_hashes_of_every_type_are_what_they_were",
        _CONTENT,
        _GOLDEN,
    ),
    "eventlog/storage/checked_reads": (_STORAGE, _MESSAGES, _GOLDEN, _CLI, _WRITE),
    "eventlog/storage/parquet_files": (_STORAGE, _GOLDEN, "test_log_compact"),
    **dict.fromkeys(("eventlog/rebatch", "eventlog/run", "eventlog/writer"), (_UNITS, _GOLDEN, _CLI, _WRITE)),
    "eventlog/fold_reader": (_UNITS, *_FOLD),
    **dict.fromkeys(
        ("eventlog/runs_of_day", "eventlog/follow", "eventlog/reader"),
        (_UNITS, _GOLDEN, _CLI, _WRITE, "test_log_compact::test_readers_live_through_a_compaction", "test_read_once"),
    ),
    **dict.fromkeys(("eventlog/compact", "eventlog/rewrite"), (_UNITS, _GOLDEN, "test_log_compact")),
    **dict.fromkeys(
        ("eventlog/quarantine", "eventlog/recover"), (_UNITS, "test_log_set_aside", _CLI, "test_log_crash")
    ),
    "eventlog/verify_log": (_UNITS, _CLI, "test_log_set_aside", _WRITE),
    "eventlog/lock": ("test_log_lock", _UNITS),
    "eventlog/eod_mark": (_UNITS, *_EOD),
    "eventlog/deletion": ("test_deletion", *_EOD),
    "eventlog/archive": (
        _UNITS,
        "test_eod_steps::test_archive_is_read_like_the_log",
        "test_eod_steps::test_a_deleted_date_says_what_is_kept",
    ),
    **dict.fromkeys(("memory/day_summary", "memory/fold_days", "memory/model", "memory/pools"), ("test_memory_fold",)),
    **dict.fromkeys(("memory/chain", "endofday/kept_memory"), ("test_memory_chain", "test_old_home")),
    "memory/old_memory": ("test_old_home",),
    "memory/stats": ("test_memory_stats", "test_memory_fold"),
    "endofday/finished": ("test_record_parts",),
    "endofday/eod": (*_EOD, "test_read_once", *_READ_BACK),
    "endofday/datasets": (
        "test_memory_fold::test_what_a_kept_date_allowed_is_kept",
        "test_memory_fold::test_a_kept_file_of_another_form_is_damage",
        "test_eod_steps::test_fold_and_fold_again",
        *_EOD,
    ),
}
"""Per source module, below `harvester/`: test files or tests; a survivor costs about ten CPU seconds at most."""

WIDE: dict[str, tuple[str, ...]] = {
    "eventlog/": ("test_power_cut_log", "test_log_crash", "test_log_compact", "test_log_fold", "test_log_damage"),
    "endofday/": ("test_power_cut_eod", "test_eod_steps", "test_unfinished_days"),
    "memory/": ("test_artefacts_files", "test_eod_steps"),
}
"""By the beginning of the module: slower tests that survivors of the first are run against with `--wide`."""


def modules_of(project: Path) -> list[str]:
    """Source files with an entry in the table, as paths below the project."""
    found = sorted(path.relative_to(project).as_posix() for path in (project / "harvester").rglob("*.py"))
    return [file for file in found if tried_by(file)]


def tried_by(file: str, wide: bool = False) -> tuple[str, ...]:
    """The tests for a mutant of a source file, quickest first: files or node ids. `wide`: slow ones too."""
    name = file.removeprefix("harvester/").removesuffix(".py")
    tests = TESTS.get(name, ())
    if wide and tests:
        tests += next((more for folder, more in WIDE.items() if name.startswith(folder)), ())
    parts = [test.partition("::") for test in dict.fromkeys(tests)]
    return tuple(f"tests/{stem}.py{colons}{rest}" for stem, colons, rest in parts)
