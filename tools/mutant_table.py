"""What the sampled mutation run covers: cosmic-ray's operators, and the tests per source module, quickest first."""

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
_EOD = tuple(
    f"test_eod_steps::{name}"
    for name in (
        "test_fold_and_fold_again",
        "test_nothing_is_deleted_without_being_asked",
        "test_not_confirmed",
        "test_the_list_comes_first",
        "test_deleted_date_is_done",
        "test_differing_episode_files_stop_deletion",
        "test_what_nothing_replaces_stays",
        "test_file_that_appears_after_the_list_stays",
        "test_links_are_never_followed",
        "test_an_altered_list_cannot_reach_out",
        "test_reopened_after_deletion",
        "test_lost_memory_comes_back",
    )
)
_DELETION = tuple(name for name in _EOD if "fold" not in name)
TESTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "eventlog/storage/prefetch",
            "eventlog/storage/checked_reads",
            "eventlog/fold_reader",
            "eventlog/storage/content_hash",
            "eventlog/rebatch",
            "files",
            "eventlog/storage/format",
            "eventlog/storage/message_layout",
            "eventlog/storage/sealed_lines",
            "eventlog/storage/batch_messages",
            "eventlog/storage/sequence_checks",
            "eventlog/run",
            "eventlog/storage/ipc_streams",
            "eventlog/writer",
        ),
        (_GOLDEN, _CLI, _CONTENT, _WRITE),
    ),
    **dict.fromkeys(
        ("eventlog/storage/damage", "eventlog/runs_of_day", "eventlog/follow", "eventlog/reader"),
        (_GOLDEN, _CLI, _WRITE),
    ),
    **dict.fromkeys(
        ("eventlog/compact", "eventlog/storage/parquet_files", "eventlog/rewrite"), (_GOLDEN, "test_log_compact")
    ),
    **dict.fromkeys(("eventlog/quarantine", "eventlog/recover"), ("test_log_set_aside", _CLI, "test_log_crash")),
    "eventlog/verify_log": (_CLI, "test_log_set_aside", _WRITE),
    "eventlog/lock": ("test_log_lock",),
    "eventlog/eod_mark": _EOD,
    **dict.fromkeys(("memory/day_summary", "memory/fold_days", "memory/model"), ("test_memory_fold",)),
    "memory/stats": ("test_memory_stats", "test_memory_fold"),
    "endofday/finished": ("test_record_parts",),
    "endofday/eod": _EOD,
    "endofday/datasets": ("test_eod_steps::test_fold_and_fold_again", *_EOD),
    "eventlog/deletion": _DELETION,
    "eventlog/archive": (
        "test_eod_steps::test_archive_is_read_like_the_log",
        "test_eod_steps::test_a_deleted_date_says_what_is_kept",
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
    """What a mutant of a source file is run against, quickest first: test files, or node ids. `wide`: slow ones too."""
    name = file.removeprefix("harvester/").removesuffix(".py")
    tests = TESTS.get(name, ())
    if wide and tests:
        tests += next((more for folder, more in WIDE.items() if name.startswith(folder)), ())
    parts = [test.partition("::") for test in dict.fromkeys(tests)]
    return tuple(f"tests/{stem}.py{colons}{rest}" for stem, colons, rest in parts)
