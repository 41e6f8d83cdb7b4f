//! The brokers of a cluster: which of them leads a partition now, and what each is asked.
//!
//! One connection to each broker, shared by all who read from it. Where a partition lives is remembered until a broker says
//! that it has moved; then it is looked up once for all who ask, and the request goes to the new place at once.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    BrokerId, FetchRequest, InitProducerIdRequest, ListOffsetsRequest, MetadataRequest,
    OffsetForLeaderEpochRequest, ProduceRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;
use uuid::Uuid;

use super::connection::{Connection, Identity, Manner};
use super::error::KafkaError;
use super::settings::KafkaSettings;
use super::tls::Tls;

/// An answer to a question takes no longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Records at most that one answer to a fetch brings, bytes; a single batch may be longer.
pub(crate) const FETCH_BYTES: i32 = 4 << 20;
/// How often one request looks for the leader.
const TRIES: u32 = 2;

/// Which records are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// All.
    Uncommitted,
    /// Those that are committed, up to the first transaction that is still open.
    Committed,
}

impl Isolation {
    fn code(self) -> i8 {
        i8::from(self == Self::Committed)
    }
}

/// A place in a partition that is to be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offset {
    /// The first that is still there.
    Earliest,
    /// Behind the last that may be read.
    Latest,
    /// The first record with this time or a later one, ms since the epoch.
    Time(i64),
}

/// A topic as the cluster has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name, which a later topic may have too.
    pub name: String,
    /// Its id, which no other topic ever has.
    pub id: Uuid,
    /// The cluster's id.
    pub cluster: String,
    /// Its partitions.
    pub partitions: BTreeMap<i32, Partition>,
}

impl Topic {
    /// The id as Kafka's tools show it.
    pub fn id_text(&self) -> String {
        id_text(self.id)
    }
}

/// A topic's id as Kafka's tools show it: 22 letters of base64.
pub(crate) fn id_text(id: Uuid) -> String {
    base64_simd::URL_SAFE_NO_PAD.encode_to_string(id.as_bytes())
}

/// Reads what [`id_text`] writes.
pub(crate) fn parse_id(text: &str) -> Option<Uuid> {
    let bytes = base64_simd::URL_SAFE_NO_PAD.decode_to_vec(text).ok()?;
    Uuid::from_slice(&bytes).ok()
}

/// A partition as the cluster has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Who leads it; none: nobody at the moment.
    pub leader: Option<i32>,
    /// How often the leader has changed.
    pub epoch: i32,
}

/// Who leads a partition, and as which leader of it.
struct Leader {
    connection: Arc<Connection>,
    epoch: i32,
    topic: Arc<Topic>,
}

/// What a fetch brought.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Record batches as they lie in the log; the last one may be cut off.
    pub records: Bytes,
    /// Behind the last record that may be read.
    pub end: i64,
    /// The first offset that the partition still has.
    pub start: i64,
    /// Transactions that were given up: their producer, and the offset that they begin at.
    pub aborted: Vec<(i64, i64)>,
    /// The log does not hold what was read before: up to this offset it does.
    pub diverged: Option<i64>,
}

/// How far the records of an epoch go in a partition's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The epoch that was asked for, or the last one before it that the log has records of.
    pub epoch: i32,
    /// Behind its last record: where a later epoch begins, or the end of the log.
    pub end: i64,
}

/// What is known of the cluster.
#[derive(Default)]
struct Known {
    brokers: HashMap<i32, (String, u16)>,
    topics: HashMap<Uuid, (Arc<Topic>, Instant)>,
}

/// Whom a connection is to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Address(String, u16);

/// At most one connection to a broker; whoever opens one lets the others wait for it.
type Link = Arc<tokio::sync::Mutex<Option<Arc<Connection>>>>;

/// A cluster, with connections to its brokers.
pub struct Cluster {
    settings: KafkaSettings,
    manner: Result<Manner, String>,
    known: Mutex<Known>,
    links: Mutex<HashMap<Address, Link>>,
    looking: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cluster({})", self.settings.bootstrap)
    }
}

impl Cluster {
    /// The cluster of these brokers. Nothing is asked yet.
    pub fn new(settings: KafkaSettings) -> Self {
        let tls = || Tls::new(settings.ca.as_deref(), settings.client.as_ref());
        let tls = settings.tls.then(tls).transpose();
        let manner = tls.map(|tls| Manner { tls, identity: settings.sasl.clone().map(Identity::of) });
        let (known, links, looking) = Default::default();
        Self { settings, manner, known, links, looking }
    }

    /// How it is reached.
    pub fn settings(&self) -> &KafkaSettings {
        &self.settings
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to a broker; opened where there is none that can be used.
    async fn link(&self, (host, port): (&str, u16)) -> Result<Arc<Connection>, KafkaError> {
        let bad = |problem: &String| KafkaError::refused(&format!("{host}:{port}"), problem);
        let manner = self.manner.as_ref().map_err(bad)?;
        let link = {
            let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(links.entry(Address(host.to_owned(), port)).or_default())
        };
        let mut link = link.lock().await;
        if let Some(open) = link.as_ref().filter(|open| open.is_usable()) {
            return Ok(Arc::clone(open));
        }
        *link = None;
        let opened = Arc::new(Connection::open(host, port, manner).await?);
        *link = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// A connection to any broker: one that is known, or one of those to ask first.
    pub(super) async fn any(&self) -> Result<Arc<Connection>, KafkaError> {
        let known: Vec<(String, u16)> = self.known().brokers.values().cloned().collect();
        let mut problem = None;
        for (host, port) in known.iter().chain(self.settings.bootstrap.brokers()) {
            match self.link((host, *port)).await {
                Ok(connection) => return Ok(connection),
                // What a person has to mend is worth more words.
                Err(error) if problem.is_none() || !error.may_pass() => problem = Some(error),
                Err(_) => {}
            }
        }
        Err(problem.unwrap_or_else(|| KafkaError::unreachable("", "no broker is named")))
    }

    async fn metadata(&self, topic: MetadataRequestTopic, called: &str) -> Result<Arc<Topic>, KafkaError> {
        let request =
            MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false);
        let connection = self.any().await?;
        let answer = connection.ask(&request, ANSWER_TIMEOUT).await?;
        let cluster = answer.cluster_id.map_or_else(String::new, |id| id.to_string());
        let brokers = answer.brokers.into_iter().filter_map(|broker| {
            Some((*broker.node_id, (broker.host.to_string(), u16::try_from(broker.port).ok()?)))
        });
        let brokers: HashMap<_, _> = brokers.collect();
        let topic = answer.topics.into_iter().next().ok_or_else(|| KafkaError::NoTopic(called.to_owned()))?;
        match ResponseError::try_from_code(topic.error_code) {
            Some(ResponseError::UnknownTopicOrPartition | ResponseError::UnknownTopicId) => {
                return Err(KafkaError::NoTopic(called.to_owned()));
            }
            _ => KafkaError::of(connection.broker(), topic.error_code).map_or(Ok(()), Err)?,
        }
        let topic = Arc::new(described(topic, cluster));
        let mut known = self.known();
        known.brokers = brokers;
        known.topics.insert(topic.id, (Arc::clone(&topic), Instant::now()));
        Ok(topic)
    }

    /// The topic that has this name now.
    ///
    /// # Errors
    /// [`KafkaError::NoTopic`] when there is none; otherwise when nobody could be asked.
    pub async fn topic_named(&self, name: &str) -> Result<Arc<Topic>, KafkaError> {
        let wanted = TopicName(StrBytes::from_string(name.to_owned()));
        self.metadata(MetadataRequestTopic::default().with_name(Some(wanted)), name).await
    }

    /// The topic with this id as it is now.
    ///
    /// # Errors
    /// As [`Cluster::topic_named`].
    pub async fn topic(&self, id: Uuid) -> Result<Arc<Topic>, KafkaError> {
        let wanted = MetadataRequestTopic::default().with_topic_id(id).with_name(None);
        self.metadata(wanted, &format!("with id {}", id_text(id))).await
    }

    /// The topic as it was when somebody last asked, but after `since`.
    async fn topic_since(&self, id: Uuid, since: Option<Instant>) -> Result<Arc<Topic>, KafkaError> {
        let found = |cluster: &Self| {
            let known = cluster.known();
            let (topic, asked) = known.topics.get(&id)?;
            since.is_none_or(|since| since < *asked).then(|| Arc::clone(topic))
        };
        if let Some(topic) = found(self) {
            return Ok(topic);
        }
        let _one_for_all = self.looking.lock().await;
        match found(self) {
            Some(topic) => Ok(topic),
            None => self.topic(id).await,
        }
    }

    /// Who leads a partition. `since`: what was known then turned out to be wrong.
    async fn leader(&self, id: Uuid, partition: i32, since: Option<Instant>) -> Result<Leader, KafkaError> {
        let topic = self.topic_since(id, since).await?;
        let (name, Some(found)) = (topic.name.clone(), topic.partitions.get(&partition)) else {
            return Err(KafkaError::NoPartition { topic: topic.name.clone(), partition });
        };
        let epoch = found.epoch;
        let address = found.leader.and_then(|leader| self.known().brokers.get(&leader).cloned());
        let (host, port) = address.ok_or(KafkaError::NoLeader { topic: name, partition })?;
        Ok(Leader { connection: self.link((&host, port)).await?, epoch, topic })
    }

    /// Asks the leader of a partition, and the next one where it has moved.
    async fn at_leader<T, A: Future<Output = Result<T, KafkaError>>>(
        &self,
        (id, partition): (Uuid, i32),
        ask: impl Fn(Leader) -> A,
    ) -> Result<T, KafkaError> {
        let mut since = None;
        let mut tries = 0;
        loop {
            let asked = Instant::now();
            let answer = match self.leader(id, partition, since).await {
                Ok(leader) => ask(leader).await,
                Err(error) => Err(error),
            };
            tries += 1;
            match answer {
                Err(error) if error.moved() => {
                    if tries == TRIES {
                        // The next one who asks begins with a look.
                        self.known().topics.remove(&id);
                        return Err(error);
                    }
                    since = Some(asked);
                }
                answer => return answer,
            }
        }
    }

    /// The offset of a place in a partition; nothing where no record is so late.
    ///
    /// # Errors
    /// When it could not be asked.
    pub async fn offset(
        &self,
        (id, partition): (Uuid, i32),
        place: Offset,
        isolation: Isolation,
    ) -> Result<Option<i64>, KafkaError> {
        let found = self.at_leader((id, partition), |leader| async move {
            let wanted = ListOffsetsPartition::default()
                .with_partition_index(partition)
                .with_current_leader_epoch(leader.epoch)
                .with_timestamp(match place {
                    Offset::Latest => -1,
                    Offset::Earliest => -2,
                    Offset::Time(ms) => ms.max(0),
                });
            let topic = ListOffsetsTopic::default()
                .with_name(TopicName(StrBytes::from_string(leader.topic.name.clone())))
                .with_partitions(vec![wanted]);
            let request = ListOffsetsRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_isolation_level(isolation.code())
                .with_topics(vec![topic]);
            let answer = leader.connection.ask(&request, ANSWER_TIMEOUT).await?;
            let found =
                answer.topics.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
            let found = found.ok_or_else(|| no_answer(&leader))?;
            KafkaError::of(leader.connection.broker(), found.error_code).map_or(Ok(()), Err)?;
            Ok(Some(found.offset).filter(|offset| *offset >= 0))
        });
        let found = found.await?;
        // Only the name was asked for: it may be that of another topic by now.
        self.topic(id).await?;
        Ok(found)
    }

    /// How far the records of an epoch go in a partition's log; nothing where that has no records of it or of one before.
    ///
    /// # Errors
    /// When it could not be asked.
    pub async fn epoch_end(
        &self,
        (id, partition): (Uuid, i32),
        epoch: i32,
    ) -> Result<Option<EpochEnd>, KafkaError> {
        let found = self.at_leader((id, partition), |leader| async move {
            let wanted = OffsetForLeaderPartition::default()
                .with_partition(partition)
                .with_current_leader_epoch(leader.epoch)
                .with_leader_epoch(epoch);
            let topic = OffsetForLeaderTopic::default()
                .with_topic(TopicName(StrBytes::from_string(leader.topic.name.clone())))
                .with_partitions(vec![wanted]);
            let request =
                OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
            let answer = leader.connection.ask(&request, ANSWER_TIMEOUT).await?;
            let found =
                answer.topics.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
            let found = found.ok_or_else(|| no_answer(&leader))?;
            KafkaError::of(leader.connection.broker(), found.error_code).map_or(Ok(()), Err)?;
            let (epoch, end) = (found.leader_epoch, found.end_offset);
            Ok((epoch >= 0 && end >= 0).then_some(EpochEnd { epoch, end }))
        });
        let found = found.await?;
        // Only the name was asked for: it may be that of another topic by now.
        self.topic(id).await?;
        Ok(found)
    }

    /// What lies in a partition from `offset` on. `epoch`: of the leader that wrote the record before, where that is known:
    /// a log that was cut there is told from one that was not.
    ///
    /// # Errors
    /// With the broker's code, among them that the offset is out of range: nothing is moved.
    pub async fn fetch(
        &self,
        (id, partition): (Uuid, i32),
        offset: i64,
        epoch: Option<i32>,
        isolation: Isolation,
    ) -> Result<Fetched, KafkaError> {
        self.at_leader((id, partition), |leader| async move {
            let wanted = FetchPartition::default()
                .with_partition(partition)
                .with_current_leader_epoch(leader.epoch)
                .with_fetch_offset(offset)
                .with_last_fetched_epoch(epoch.unwrap_or(-1))
                .with_partition_max_bytes(FETCH_BYTES);
            let request = FetchRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_max_wait_ms(0)
                .with_min_bytes(1)
                .with_max_bytes(FETCH_BYTES)
                .with_isolation_level(isolation.code())
                .with_session_epoch(-1)
                .with_topics(vec![FetchTopic::default().with_topic_id(id).with_partitions(vec![wanted])]);
            let answer = leader.connection.ask(&request, ANSWER_TIMEOUT).await?;
            let broker = leader.connection.broker();
            KafkaError::of(broker, answer.error_code).map_or(Ok(()), Err)?;
            let found =
                answer.responses.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
            let found = found.ok_or_else(|| no_answer(&leader))?;
            KafkaError::of(broker, found.error_code).map_or(Ok(()), Err)?;
            let diverged = Some(found.diverging_epoch).filter(|diverged| diverged.epoch >= 0);
            let aborted = found.aborted_transactions.unwrap_or_default();
            Ok(Fetched {
                records: found.records.unwrap_or_default(),
                end: match isolation {
                    Isolation::Committed => found.last_stable_offset,
                    Isolation::Uncommitted => found.high_watermark,
                },
                start: found.log_start_offset,
                aborted: aborted.iter().map(|one| (*one.producer_id, one.first_offset)).collect(),
                diverged: diverged.map(|diverged| diverged.end_offset),
            })
        })
        .await
    }

    /// An id for somebody who produces, and its epoch: batches with it are taken once, however often they are sent.
    ///
    /// # Errors
    /// When no broker gives one.
    pub(super) async fn producer_id(&self) -> Result<(i64, i16), KafkaError> {
        let connection = self.any().await?;
        let request =
            InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(0);
        let answer = connection.ask(&request, ANSWER_TIMEOUT).await?;
        let given = (*answer.producer_id, answer.producer_epoch);
        KafkaError::of(connection.broker(), answer.error_code).map_or(Ok(given), Err)
    }

    /// Appends a batch to a partition, and returns when all replicas in step have it: the offset of its first record.
    ///
    /// # Errors
    /// When it is not known to be there: it may be all the same.
    pub async fn produce(&self, (id, partition): (Uuid, i32), batch: &Bytes) -> Result<i64, KafkaError> {
        self.at_leader((id, partition), |leader| async move {
            let data =
                PartitionProduceData::default().with_index(partition).with_records(Some(batch.clone()));
            let topic = TopicProduceData::default()
                .with_name(TopicName(StrBytes::from_string(leader.topic.name.clone())))
                .with_partition_data(vec![data]);
            let request = ProduceRequest::default()
                .with_acks(-1)
                .with_timeout_ms(i32::try_from(ANSWER_TIMEOUT.as_millis()).unwrap_or(i32::MAX))
                .with_topic_data(vec![topic]);
            let answer = leader.connection.ask(&request, ANSWER_TIMEOUT * 2).await?;
            let found = answer.responses.into_iter().next();
            let found = found.and_then(|topic| topic.partition_responses.into_iter().next());
            let found = found.ok_or_else(|| no_answer(&leader))?;
            KafkaError::of(leader.connection.broker(), found.error_code).map_or(Ok(found.base_offset), Err)
        })
        .await
    }
}

fn no_answer(leader: &Leader) -> KafkaError {
    KafkaError::unreachable(leader.connection.broker(), "its answer does not name the partition")
}

fn described(topic: MetadataResponseTopic, cluster: String) -> Topic {
    let partitions = topic.partitions.iter().map(|partition| {
        let leader = Some(*partition.leader_id).filter(|leader| *leader >= 0);
        (partition.partition_index, Partition { leader, epoch: partition.leader_epoch })
    });
    Topic {
        name: topic.name.map_or_else(String::new, |name| name.to_string()),
        id: topic.topic_id,
        cluster,
        partitions: partitions.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_shown() {
        let id = Uuid::from_u128(0x8011_1ee1_c22c_428b_9c1f_48f1_9cb9_109f);
        assert_eq!(id_text(id), "gBEe4cIsQoucH0jxnLkQnw");
        assert_eq!(parse_id(&id_text(id)), Some(id));
        for wrong in ["", "gBEe4cIsQoucH0jxnLkQn", "gBEe4cIsQoucH0jxnLkQnw==", "orders"] {
            assert_eq!(parse_id(wrong), None, "{wrong}");
        }
    }
}
