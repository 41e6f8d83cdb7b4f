"""The settings of the Hudi table, and the bookmark that each of its commits carries. Plain Python."""

import dataclasses
import json

# Objects that are not older than this may still appear: an upload in parts has the time of its beginning.
HORIZON_MS = 3_600_000
# Where a commit has the state of the job.
STATE = "kinetide.state"


def write_options(name, partition):
    return {
        "hoodie.table.name": name,
        "hoodie.datasource.write.table.type": "COPY_ON_WRITE",
        "hoodie.datasource.write.operation": "upsert",
        "hoodie.datasource.write.recordkey.field": "transaction_id",
        "hoodie.datasource.write.partitionpath.field": f"{partition}_part",
        "hoodie.datasource.write.keygenerator.class": "org.apache.hudi.keygen.SimpleKeyGenerator",
        "hoodie.datasource.write.hive_style_partitioning": "true",
        # The newest change wins, in one batch and across commits; the default payload lets the last one written win.
        "hoodie.datasource.write.precombine.field": "ordering_key",
        "hoodie.datasource.write.payload.class": "org.apache.hudi.common.model.DefaultHoodieRecordPayload",
        "hoodie.payload.ordering.field": "ordering_key",
        # A trade has one row, whichever partition its last change is in.
        "hoodie.index.type": "GLOBAL_SIMPLE",
        "hoodie.simple.index.update.partition.path": "true",
        "hoodie.datasource.write.commitmeta.key.prefix": "kinetide.",
        # Athena reads the files themselves.
        "hoodie.metadata.enable": "false",
        # Two hours of runs every five minutes: longer than a query, and as far back as incremental reads go.
        "hoodie.cleaner.commits.retained": "24",
        "hoodie.keep.min.commits": "30",
        "hoodie.keep.max.commits": "40",
    }


def sync_options(database, name, partition):
    """The table in the catalog, kept by the writer."""
    return {
        "hoodie.datasource.hive_sync.enable": "true",
        "hoodie.datasource.hive_sync.mode": "hms",
        "hoodie.datasource.hive_sync.use_jdbc": "false",
        "hoodie.datasource.hive_sync.database": database,
        "hoodie.datasource.hive_sync.table": name,
        "hoodie.datasource.hive_sync.partition_fields": f"{partition}_part",
        "hoodie.datasource.hive_sync.partition_extractor_class": "org.apache.hudi.hive.MultiPartKeysValueExtractor",
    }


@dataclasses.dataclass(frozen=True)
class State:
    """What a commit says of the job: which objects are in the table, and what its columns hold."""

    # Everything that was last modified up to here has been read, in ms.
    until: int = 0
    # What has been read that was modified later: path to time.
    recent: dict = dataclasses.field(default_factory=dict)
    # Attributes that are no column of every row: name to kind.
    kinds: dict = dataclasses.field(default_factory=dict)
    # Hours whose aggregate this commit changes.
    hours: list = dataclasses.field(default_factory=list)

    def encode(self):
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"), sort_keys=True)

    @staticmethod
    def decode(text):
        return State(**json.loads(text))

    def unread(self, listed, most):
        """Objects that are not in the table yet, oldest first: (path, modified) of (path, modified)."""
        new = [(path, at) for path, at in listed if at > self.until and self.recent.get(path) != at]
        return sorted(new, key=lambda one: (one[1], one[0]))[:most]

    def after(self, taken, complete, listed_at, kinds, hours):
        """The state once these objects are in the table; `complete` when nothing unread is left."""
        until = listed_at - HORIZON_MS
        if not complete:
            until = min(until, taken[-1][1] - 1)
        until = max(self.until, until)
        recent = {path: at for path, at in (self.recent | dict(taken)).items() if at > until}
        return State(until, recent, kinds, hours)
