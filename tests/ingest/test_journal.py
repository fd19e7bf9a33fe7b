"""The journal gives back what was put in, in order; a cut one gives a prefix, a damaged one is refused, never worse."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.writer import Writer

from ingest import wire
from ingest.errors import InputRefused, UsageRefused
from ingest.journal import JournalReader, JournalWriter, pack, unpack
from ingest.messages import MESSAGE_TYPES, IqBlock, Message
from ingest.sources import JournalSource, open_source
from ingest.topics import TOPICS
from tests.conftest import ROOT
from tests.ingest.test_wire import messages, same
from tests.random_channels import budget, complex_normal, frame

METADATA = {"config": "[source]\nuri = 'x'\n", "site": "sha256:0"}
JOURNALLED = [topic.message for topic in TOPICS.values() if topic.journalled]


def run_of_messages(count: int, tones: int = 16) -> list[Message]:
    """Frames and budgets in turn, as a run leaves them, each with its own contents."""
    rng = np.random.default_rng(count)
    return [
        frame(complex_normal(rng, 1, tones), block=n, t_ns=n * 10**6) if n % 2 else budget(n, t_ns=n * 10**6)
        for n in range(count)
    ]


def written(path: Path, messages: list[Message]) -> bytes:
    with JournalWriter(path, METADATA) as journal:
        for message in messages:
            journal.write(message)
    assert (journal.fault, journal.unwritten) == ("", 0)
    return path.read_bytes()


def is_prefix(part: list[Message], whole: list[Message]) -> bool:
    return len(part) <= len(whole) and all(same(*pair) for pair in zip(part, whole, strict=False))


def one_line(refusal: pytest.ExceptionInfo[Exception], *words: str) -> bool:
    text = str(refusal.value)
    return "\n" not in text and all(word in text for word in words)


@pytest.mark.parametrize("message_type", MESSAGE_TYPES)
@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_record_gives_its_message_back(message_type: type[Message], data: st.DataObject) -> None:
    message = data.draw(messages(message_type))
    assert same(unpack(message.TOPIC, pack(message)), message)


@pytest.mark.parametrize("message_type", JOURNALLED)
@given(data=st.data())
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
def test_every_type_comes_back(
    message_type: type[Message], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    put_in = data.draw(st.lists(messages(message_type), min_size=1, max_size=4))
    path = tmp_path_factory.mktemp("journal") / "run.mcap"
    written(path, put_in)
    reader = JournalReader(path)
    read = list(reader)
    assert len(read) == len(put_in)
    assert is_prefix(read, put_in)
    assert not reader.truncated


def test_order_and_metadata(tmp_path: Path) -> None:
    put_in = run_of_messages(2000)
    path = tmp_path / "new" / "folder" / "run.mcap"
    written(path, put_in)
    reader = JournalReader(path)
    assert reader.metadata == METADATA
    read = list(reader)
    assert len(read) == len(put_in)
    assert is_prefix(read, put_in)
    assert is_prefix(list(reader), put_in)  # a second time


def test_order_is_that_of_writing_not_of_time(tmp_path: Path) -> None:
    put_in = [msgspec.structs.replace(budget(n), t_ns=t_ns) for n, t_ns in enumerate([5, 3, 9, 0, 2**63 - 1])]
    written(tmp_path / "run.mcap", put_in)
    assert [message.t_ns for message in JournalReader(tmp_path / "run.mcap")] == [5, 3, 9, 0, 2**63 - 1]


def test_each_writing_thread_keeps_its_order(tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    with JournalWriter(path, METADATA) as journal:

        def write(name: str) -> None:
            for n in range(500):
                journal.write(msgspec.structs.replace(budget(n), source=name))

        threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "b", "c")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    read = list(JournalReader(path))
    assert len(read) == 1500
    for name in ("a", "b", "c"):
        assert [message.seq for message in read if message.source == name] == list(range(500))


def test_messages_larger_than_a_chunk(tmp_path: Path, rng: np.random.Generator) -> None:
    put_in = [frame(complex_normal(rng, 2000, 200), block=n) for n in range(3)]
    written(tmp_path / "run.mcap", list(put_in))
    assert is_prefix(list(JournalReader(tmp_path / "run.mcap")), list(put_in))


def test_raw_iq_is_not_kept(tmp_path: Path) -> None:
    block = IqBlock(
        source="x", epoch=0, seq=0, t_ns=0, rate_hz=1e6, center_hz=1e9, first_sample=0, samples=np.ones((1, 4), "c8")
    )
    written(tmp_path / "run.mcap", [block, budget(1)])
    assert [type(message).__name__ for message in JournalReader(tmp_path / "run.mcap")] == ["StepBudget"]


def test_a_run_without_messages_or_metadata(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "run.mcap", {}):
        pass
    reader = JournalReader(tmp_path / "run.mcap")
    assert (list(reader), reader.metadata, reader.truncated) == ([], {}, False)


def test_what_comes_after_the_end_is_counted(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path / "run.mcap", METADATA)
    journal.write(budget(0))
    journal.close()
    journal.close()
    journal.write(budget(1))
    assert journal.unwritten == 1
    assert len(list(JournalReader(tmp_path / "run.mcap"))) == 1


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    path.write_bytes(b"precious")
    with pytest.raises(UsageRefused) as refusal:
        JournalWriter(path, METADATA)
    assert refusal.value.exit_code == 2
    assert one_line(refusal, str(path), "exists already")
    assert path.read_bytes() == b"precious"


def test_a_link_to_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run.mcap").symlink_to("/dev/full")
    with pytest.raises(UsageRefused) as refusal:
        JournalWriter(tmp_path / "run.mcap", METADATA)
    assert one_line(refusal, str(tmp_path / "run.mcap"), "exists already")


@pytest.mark.parametrize("place", ["file/run.mcap", "file/deeper/run.mcap"])
def test_a_folder_that_cannot_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UsageRefused) as refusal:
        JournalWriter(tmp_path / place, METADATA)
    assert one_line(refusal, str((tmp_path / place).parent), "folder")


def test_a_folder_that_takes_no_file() -> None:
    with pytest.raises(UsageRefused) as refusal:
        JournalWriter(Path("/proc/self/run.mcap"), METADATA)
    assert one_line(refusal, "/proc/self/run.mcap", "cannot be written")


def read_or_refused(path: Path) -> tuple[list[Message], bool | None]:
    """(messages, truncated), or (what came before, None) where the journal is refused; no other exception passes."""
    read: list[Message] = []
    told = ""
    try:
        reader = JournalReader(path)
        read.extend(reader)
    except InputRefused as refusal:
        told = str(refusal)
    if not told:
        return read, reader.truncated
    assert told.startswith(f"{path}: ")
    assert "\n" not in told
    return read, None


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Message]]:
    """The bytes of a journal of several chunks and what was put into it."""
    put_in = run_of_messages(300, tones=2400)
    return written(tmp_path_factory.mktemp("journal") / "run.mcap", put_in), put_in


@pytest.fixture(scope="module")
def small_journal(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Message]]:
    put_in = run_of_messages(7)
    return written(tmp_path_factory.mktemp("journal") / "run.mcap", put_in), put_in


def test_cut_anywhere_it_gives_a_prefix(journal: tuple[bytes, list[Message]], tmp_path: Path) -> None:
    whole, put_in = journal
    counts = []
    for cut in np.linspace(0, len(whole) - 1, 100).astype(int):
        path = tmp_path / "cut.mcap"
        path.write_bytes(whole[:cut])
        read, truncated = read_or_refused(path)
        assert is_prefix(read, put_in)
        # Behind the messages lie only the index and the footer.
        assert truncated or (truncated is None and cut < 200) or len(read) == len(put_in)
        counts.append(len(read))
    assert counts == sorted(counts)
    assert len(set(counts)) > 2


def test_cut_all_over_a_small_one(small_journal: tuple[bytes, list[Message]], tmp_path: Path) -> None:
    whole, put_in = small_journal
    ends: dict[bool | None, int] = {True: 0, False: 0, None: 0}
    for cut in [*range(300), *range(300, len(whole), 5)]:
        path = tmp_path / "cut.mcap"
        path.write_bytes(whole[:cut])
        read, truncated = read_or_refused(path)
        assert is_prefix(read, put_in)
        assert truncated is not False or len(read) == len(put_in)
        ends[truncated] += 1
    assert min(ends.values()) > 0  # too short to be a journal; cut; only the index missing


def test_any_byte_changed_of_a_small_one(small_journal: tuple[bytes, list[Message]], tmp_path: Path) -> None:
    """Whatever byte of the file changes, its messages are all there unchanged, or it is refused."""
    whole, put_in = small_journal
    path = tmp_path / "damaged.mcap"
    index = whole.index(b"zstd") + 2600  # the chunk ends before; what follows the messages is not read
    refused = 0
    for place in [*range(index), *range(index, len(whole), 11)]:
        damaged = bytearray(whole)
        damaged[place] ^= (0x01, 0x80, 0xFF)[place % 3]
        path.write_bytes(damaged)
        read, truncated = read_or_refused(path)
        assert is_prefix(read, put_in)
        if truncated is None:
            refused += 1
        else:
            assert len(read) == len(put_in), f"byte {place}"
            assert JournalReader(path).metadata == METADATA
    assert refused > 2000


@given(places=st.lists(st.tuples(st.integers(0, 2**32), st.integers(1, 255)), min_size=1, max_size=20))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_changed_in_several_places(
    journal: tuple[bytes, list[Message]], tmp_path_factory: pytest.TempPathFactory, places: list[tuple[int, int]]
) -> None:
    whole, put_in = journal
    damaged = bytearray(whole)
    for place, flip in places:
        damaged[place % len(whole)] ^= flip
    path = tmp_path_factory.getbasetemp() / "damaged.mcap"
    path.write_bytes(damaged)
    read, truncated = read_or_refused(path)
    assert is_prefix(read, put_in)
    assert truncated is not False or len(read) == len(put_in)


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_noise_is_refused(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.mcap"
    for start in (b"", b"\x89MCAP0\r\n"):
        path.write_bytes(start + noise)
        assert read_or_refused(path) == ([], None)


def chunks_start(whole: bytes) -> int:
    """The offset of the first chunk record that says it is packed."""
    return whole.index(b"zstd") - 8 - 8 - 8 - 4 - 4 - 9


@pytest.mark.parametrize(
    ("name", "offset", "value"),
    [
        ("size that memory does not hold", 9 + 16, (1 << 60).to_bytes(8, "little")),
        ("packing that we do not write", 9 + 32, b"lz4\0"),
        ("wrong checksum", 9 + 24, b"\1\2\3\4"),
        ("data longer than the file", 9 + 36, (1 << 40).to_bytes(8, "little")),
        ("record longer than the file", 1, (1 << 40).to_bytes(8, "little")),
        ("record of no length", 1, bytes(8)),
        ("another kind of record", 0, b"\x07"),
        ("unknown kind of record", 0, b"\x85"),
    ],
)
def test_a_damaged_chunk_is_refused(
    small_journal: tuple[bytes, list[Message]], tmp_path: Path, name: str, offset: int, value: bytes
) -> None:
    whole, _ = small_journal
    damaged = bytearray(whole)
    place = chunks_start(whole) + offset
    damaged[place : place + len(value)] = value
    path = tmp_path / "damaged.mcap"
    path.write_bytes(damaged)
    with pytest.raises(InputRefused) as refusal:
        list(JournalReader(path))
    assert refusal.value.exit_code == 3
    assert one_line(refusal, str(path), "is damaged")


def foreign_mcap(path: Path, *, metadata: str | None, topic: str, data: bytes) -> None:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        if metadata is not None:
            writer.add_metadata(metadata, {"a": "b"})
        channel = writer.register_channel(topic, "json", schema_id=0)
        writer.add_message(channel, log_time=0, data=data, publish_time=0)
        writer.finish()


@pytest.mark.parametrize("metadata", [None, "somebody"])
def test_an_mcap_file_of_others(tmp_path: Path, metadata: str | None) -> None:
    foreign_mcap(tmp_path / "bag.mcap", metadata=metadata, topic="/imu", data=b"{}")
    with pytest.raises(InputRefused) as refusal:
        JournalReader(tmp_path / "bag.mcap")
    assert one_line(refusal, str(tmp_path / "bag.mcap"), "not a journal")


@pytest.mark.parametrize(
    ("topic", "data"),
    [
        ("/imu", b"{}"),
        ("budget", b""),
        ("budget", b"\xff\xff\xff\xff{}"),
        ("budget", b"\x02\0\0\0{}"),
        ("budget", pack(budget(0)) + b"more"),
    ],
)
def test_a_message_that_is_none_of_ours(tmp_path: Path, topic: str, data: bytes) -> None:
    foreign_mcap(tmp_path / "run.mcap", metadata="twinbeam", topic=topic, data=data)
    with pytest.raises(InputRefused) as refusal:
        list(JournalReader(tmp_path / "run.mcap"))
    assert one_line(refusal, str(tmp_path / "run.mcap"), "does not decode")


@given(st.sampled_from(sorted(TOPICS)), st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_noise_as_a_record(topic: str, record: bytes) -> None:
    with pytest.raises(wire.WireError) as refusal:
        unpack(topic, record)
    assert refusal.value.reason in wire.REASONS


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_record(data: st.DataObject) -> None:
    record = bytearray(pack(frame(np.ones((1, 4)))))
    place = data.draw(st.integers(0, len(record) - 1))
    record[place] ^= data.draw(st.integers(1, 255))
    try:
        outcome = unpack("channel", bytes(record[: data.draw(st.integers(0, len(record)))])).TOPIC
    except wire.WireError as refusal:
        outcome = refusal.reason
    assert outcome in ("channel", *wire.REASONS)


def test_an_absurd_array_table_is_refused_at_once() -> None:
    header = b'{"arrays":[{"name":"cfr","dtype":"<c8","shape":[' + b"9" * 18 + b",9" * 2 + b"]}]}"
    with pytest.raises(wire.WireError) as refusal:
        unpack("channel", len(header).to_bytes(4, "little") + header)
    assert refusal.value.reason == "size"


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_no_file_to_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path if kind == "folder" else tmp_path / "none.mcap"
    with pytest.raises(InputRefused) as refusal:
        JournalReader(path)
    assert one_line(refusal, str(path), "cannot be read")


def test_as_a_source_it_says_that_it_was_cut(journal: tuple[bytes, list[Message]], tmp_path: Path) -> None:
    whole, put_in = journal
    for cut, rejected in ((len(whole), {}), (len(whole) // 2, {"truncated_end": 1})):
        path = tmp_path / "run.mcap"
        path.write_bytes(whole[:cut])
        source = open_source(str(path))
        assert isinstance(source, JournalSource)
        assert is_prefix(list(source), put_in)
        assert dict(source.rejected) == rejected


WRITER = """
import resource, sys, time
from pathlib import Path
import numpy as np
from ingest.journal import JournalWriter
from tests.ingest.test_journal import METADATA, run_of_messages
path = Path(sys.argv[1])
put_in = run_of_messages(400, tones=4000)
"""

KILLED = """
journal = JournalWriter(path, METADATA)
for message in put_in:
    journal.write(message)
while path.stat().st_size < 2 << 20:
    time.sleep(0.01)
print("written", flush=True)
sys.stdin.read()
"""

DISK_FULL = """
journal = JournalWriter(path, METADATA)
resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
for message in put_in:
    journal.write(message)
journal.close()
print(journal.fault)
print(journal.unwritten)
"""

DISK_FULL_AT_ONCE = """
from ingest.errors import UsageRefused
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    JournalWriter(path, METADATA)
except UsageRefused as refusal:
    print(refusal)
    print(path.exists())
"""

DISK_FULL_AT_THE_END = """
journal = JournalWriter(path, METADATA)
for message in put_in[:10]:
    journal.write(message)
while journal._kept < 10:
    time.sleep(0.01)
size = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
journal.close()
print(journal.fault)
print(journal.unwritten)
"""


def writer_process(script: str, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER + script, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def output_of(script: str, path: Path) -> Iterator[str]:
    with writer_process(script, path) as process:
        out, _ = process.communicate()
    assert process.returncode == 0
    return iter(out.splitlines())


def test_a_killed_run_leaves_a_readable_prefix(tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    with writer_process(KILLED, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    read, truncated = read_or_refused(path)
    assert truncated
    assert len(read) > 30
    assert is_prefix(read, run_of_messages(400, tones=4000))


def test_a_full_disk_ends_the_journal_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    fault, unwritten = output_of(DISK_FULL, path)
    assert fault == "the disk failed: File too large"
    read, truncated = read_or_refused(path)
    assert truncated
    assert is_prefix(read, run_of_messages(400, tones=4000))
    assert len(read) > 30
    assert int(unwritten) == 400 - len(read)


def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    refusal, exists = output_of(DISK_FULL_AT_ONCE, path)
    assert refusal == f"{path}: cannot be written: File too large"
    assert exists == "False"


def test_a_disk_without_room_for_the_index_loses_no_message(tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    fault, unwritten = output_of(DISK_FULL_AT_THE_END, path)
    assert fault == "the disk failed: File too large"
    assert unwritten == "0"
    read, truncated = read_or_refused(path)
    assert (len(read), truncated) == (10, True)


def test_a_full_queue_ends_the_journal_and_is_told(tmp_path: Path) -> None:
    """The writing thread never runs in between: a running thread is asked to yield only after the switch interval."""
    interval = sys.getswitchinterval()
    journal = JournalWriter(tmp_path / "run.mcap", METADATA)
    sys.setswitchinterval(1000.0)
    try:
        for n in range(20_100):
            journal.write(budget(n))
    finally:
        sys.setswitchinterval(interval)
    journal.close()
    assert journal.fault == "the disk fell behind by 20000 messages"
    assert 90 <= journal.unwritten <= 100  # the thread may have taken one before it lost the processor
    reader = JournalReader(tmp_path / "run.mcap")
    read = [message.seq for message in reader]
    assert read == list(range(20_100 - journal.unwritten))
    assert not reader.truncated
