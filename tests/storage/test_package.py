"""The names by which others enter the package."""

import ast
from collections import Counter
from pathlib import Path

import storage

FOLDER = Path(storage.__file__).parent


def test_the_public_names_of_storage_are_these():
    assert set(storage.__all__) == {
        "BEFORE_ALL",
        "MOST_MEMBERS",
        "MOST_TOLD",
        "ALL_OWNERS",
        "ANYBODY",
        "Allowance",
        "AlreadyThere",
        "Append",
        "ArchivedAppend",
        "ArchivedBranch",
        "ArchivedItem",
        "ArchivedResponse",
        "BackupEnd",
        "BackupHead",
        "BackupReader",
        "BackupWriter",
        "Branch",
        "BranchExists",
        "BranchNotFound",
        "BranchPage",
        "BranchProtected",
        "BytesExceeded",
        "Busy",
        "CONTINUED",
        "CallMark",
        "CallSign",
        "Chain",
        "CommitMode",
        "CommitResult",
        "Committed",
        "Comparison",
        "Conflict",
        "Conversation",
        "ConversationExists",
        "ConversationHead",
        "ConversationNotFound",
        "ConversationPage",
        "Coverage",
        "CursorNotFound",
        "DamagedBackup",
        "DigestNote",
        "DigestNotes",
        "DigestQuery",
        "Disk",
        "Entry",
        "EventBatch",
        "EventLog",
        "EventPage",
        "EventQuery",
        "Excerpt",
        "Export",
        "Fork",
        "ForkPoint",
        "Forked",
        "FoundId",
        "Graph",
        "GraphBranch",
        "HeavyHistory",
        "HistoryFull",
        "HistoryItems",
        "HistoryLimit",
        "ImportSource",
        "ItemNotFound",
        "ItemPage",
        "ItemPlace",
        "Job",
        "JobEntry",
        "KeptAnswer",
        "KeyClaim",
        "KeyPart",
        "KeyStanding",
        "KeyState",
        "KnownItem",
        "LargeJob",
        "LISTED_RESPONSES",
        "Lead",
        "Lease",
        "LocatedItem",
        "Locked",
        "MOST_EXCERPTS",
        "MOST_HEADS",
        "MOST_WATCHED",
        "Members",
        "Missing",
        "NoUserMessage",
        "NOWHERE",
        "NotAMessage",
        "NotAUserMessage",
        "ON_LINE",
        "OpenedTurn",
        "Origin",
        "PageRequest",
        "Pairing",
        "PlacedItem",
        "Pulse",
        "Purged",
        "QueueFull",
        "QuotaExceeded",
        "Quotas",
        "Reason",
        "RecentPage",
        "RecentResponse",
        "Recognition",
        "RecordAct",
        "RecordResult",
        "Recorded",
        "RecordedTurn",
        "Renewal",
        "Report",
        "ResponseNotFound",
        "ResponseUnfinished",
        "Safeguards",
        "Scan",
        "ServerReplaced",
        "Spot",
        "StopResult",
        "Store",
        "StoreError",
        "StoreNotEmpty",
        "StoredResponse",
        "Submission",
        "Swept",
        "TooManyMetadata",
        "TurnCommit",
        "TurnSlot",
        "TurnSource",
        "Unavailable",
        "UnsupportedLayout",
        "WATCHED_SECONDS",
        "WaitingJobs",
        "WatchedBranch",
        "Window",
        "WindowRequest",
        "branch_spots",
        "new_partition",
        "new_token",
        "pair",
        "partition_of",
        "random_hex",
    }
    assert storage.__all__ == sorted(storage.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(storage, name) for name in storage.__all__)


def defined_in(path: Path) -> list[str]:
    """The public names that a module defines."""
    names: list[str] = []
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("_")]


def test_no_public_name_is_defined_in_two_modules():
    names = Counter(name for path in FOLDER.rglob("*.py") for name in defined_in(path))
    assert len(names) > 150
    assert {name: count for name, count in names.items() if count > 1} == {}
