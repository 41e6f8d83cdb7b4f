package kinetide.interop;

import java.net.URI;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.LongConsumer;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.awssdk.awscore.client.builder.AwsClientBuilder;
import software.amazon.awssdk.core.client.builder.SdkClientBuilder;
import software.amazon.awssdk.http.Protocol;
import software.amazon.awssdk.http.nio.netty.NettyNioAsyncHttpClient;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.cloudwatch.CloudWatchAsyncClient;
import software.amazon.awssdk.services.dynamodb.DynamoDbAsyncClient;
import software.amazon.awssdk.services.kinesis.KinesisAsyncClient;
import software.amazon.kinesis.common.ConfigsBuilder;
import software.amazon.kinesis.common.InitialPositionInStream;
import software.amazon.kinesis.common.InitialPositionInStreamExtended;
import software.amazon.kinesis.common.StreamConfig;
import software.amazon.kinesis.common.StreamIdentifier;
import software.amazon.kinesis.coordinator.Scheduler;
import software.amazon.kinesis.leases.LeaseManagementConfig;
import software.amazon.kinesis.metrics.NullMetricsFactory;
import software.amazon.kinesis.processor.FormerStreamsLeasesDeletionStrategy;
import software.amazon.kinesis.processor.FormerStreamsLeasesDeletionStrategy.NoLeaseDeletionStrategy;
import software.amazon.kinesis.processor.MultiStreamTracker;
import software.amazon.kinesis.processor.ShardRecordProcessor;
import software.amazon.kinesis.processor.ShardRecordProcessorFactory;
import software.amazon.kinesis.processor.SingleStreamTracker;
import software.amazon.kinesis.processor.StreamTracker;
import software.amazon.kinesis.retrieval.polling.PollingConfig;

/**
 * A worker on the Kinesis Client Library that polls, and writes down what it was given before it checkpoints.
 *
 * <pre>
 * java -cp 'DIR/classes:DIR/jars/*' kinetide.interop.Consumer --stream trades --application app --worker java-1 \
 *     --kinesis http://127.0.0.1:4567 --dynamodb http://127.0.0.1:8000 --out FOLDER [--failover-ms 3000] ...
 * </pre>
 *
 * <p>In place of {@code --stream}, {@code --streams ACCOUNT:NAME:CREATED,...} reads several, with leases that name them.
 *
 * <p>{@code --amid true}: each checkpoint is in the middle of an aggregate (see {@link Processor}).
 *
 * <p>The timings that tests shorten: {@code --failover-ms, --assignment-ms, --shard-sync-ms, --auditor-ms,
 * --leader-lease-ms, --leader-heartbeat-ms, --metrics-report-ms, --poll-idle-ms}; {@code --log debug} says more.
 *
 * <p>Files in FOLDER, each line written out at once: {@code WORKER.records} with {@code shardId sequenceNumber
 * subSequence epochMillis}, of several streams with {@code NAME/shardId}, and {@code WORKER.calls} with {@code epochMillis callback shardId details}. The log of the
 * library goes to stderr. SIGTERM shuts down gracefully.
 *
 * <p>All that is not named on the command line has the library's default, but: polling instead of enhanced fan-out,
 * start at TRIM_HORIZON, no CloudWatch, made-up credentials, and JSON over HTTP/1.1.
 */
public final class Consumer {
    private static final Duration GRACEFUL_MAX = Duration.ofSeconds(20);
    private static final Duration PLAIN_MAX = Duration.ofSeconds(20);

    private Consumer() {}

    public static void main(final String[] args) throws Exception {
        final Map<String, String> options = options(args);
        System.setProperty("aws.cborEnabled", "false");
        System.setProperty("org.slf4j.simpleLogger.logFile", "System.err");
        System.setProperty("org.slf4j.simpleLogger.showDateTime", "true");
        System.setProperty("org.slf4j.simpleLogger.dateTimeFormat", "yyyy-MM-dd'T'HH:mm:ss.SSSXXX");
        System.setProperty("org.slf4j.simpleLogger.defaultLogLevel", options.getOrDefault("log", "info"));

        final String worker = required(options, "worker");
        final KinesisAsyncClient kinesis = client(KinesisAsyncClient.builder(), required(options, "kinesis"))
                .httpClientBuilder(NettyNioAsyncHttpClient.builder().protocol(Protocol.HTTP1_1))
                .build();
        final DynamoDbAsyncClient dynamodb =
                client(DynamoDbAsyncClient.builder(), required(options, "dynamodb")).build();
        // Never called: the metrics go nowhere.
        final CloudWatchAsyncClient cloudwatch =
                client(CloudWatchAsyncClient.builder(), required(options, "dynamodb")).build();

        final var start = InitialPositionInStreamExtended.newInitialPosition(InitialPositionInStream.TRIM_HORIZON);
        final Journal journal = new Journal(Path.of(required(options, "out")), worker);
        final ConfigsBuilder configs = new ConfigsBuilder(
                tracker(options, start),
                required(options, "application"),
                kinesis,
                dynamodb,
                cloudwatch,
                worker,
                processors(journal, Boolean.parseBoolean(options.getOrDefault("amid", "false"))));
        final String stream = options.get("stream");
        final PollingConfig polling =
                stream == null ? new PollingConfig(kinesis) : new PollingConfig(stream, kinesis);
        number(options, "poll-idle-ms", polling::idleTimeBetweenReadsInMillis);

        final Scheduler scheduler = new Scheduler(
                configs.checkpointConfig(),
                configs.coordinatorConfig(),
                leases(configs.leaseManagementConfig().initialPositionInStream(start), options),
                configs.lifecycleConfig(),
                configs.metricsConfig().metricsFactory(new NullMetricsFactory()),
                configs.processorConfig(),
                configs.retrievalConfig().retrievalSpecificConfig(polling));
        final Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> shutDown(scheduler, main, journal), "shutdown"));
        journal.call("start", "-", "");
        scheduler.run();
    }

    /** The stream of {@code --stream}, or those of {@code --streams}, all from the same position on. */
    private static StreamTracker tracker(
            final Map<String, String> options, final InitialPositionInStreamExtended start) {
        final String several = options.get("streams");
        if (several == null) {
            return new SingleStreamTracker(
                    StreamIdentifier.singleStreamInstance(required(options, "stream")), start);
        }
        final List<StreamConfig> streams = Arrays.stream(several.split(","))
                .map(text -> new StreamConfig(StreamIdentifier.multiStreamInstance(text), start))
                .toList();
        return new MultiStreamTracker() {
            @Override
            public List<StreamConfig> streamConfigList() {
                return streams;
            }

            @Override
            public FormerStreamsLeasesDeletionStrategy formerStreamsLeasesDeletionStrategy() {
                return new NoLeaseDeletionStrategy();
            }
        };
    }

    /** The library asks for one without a stream where there is only one. */
    private static ShardRecordProcessorFactory processors(final Journal journal, final boolean amid) {
        return new ShardRecordProcessorFactory() {
            @Override
            public ShardRecordProcessor shardRecordProcessor() {
                return new Processor(journal, "", amid);
            }

            @Override
            public ShardRecordProcessor shardRecordProcessor(final StreamIdentifier stream) {
                final boolean several = stream.accountIdOptional().isPresent();
                return new Processor(journal, several ? stream.streamName() + "/" : "", amid);
            }
        };
    }

    /** As the library's examples do; where its graceful way hangs, and now and then it does, the plain one follows. */
    private static void shutDown(final Scheduler scheduler, final Thread main, final Journal journal) {
        journal.call("shutdown", "-", "");
        try {
            try {
                scheduler.startGracefulShutdown().get(GRACEFUL_MAX.toSeconds(), TimeUnit.SECONDS);
            } catch (final TimeoutException e) {
                journal.call("hangs", "-", "");
                scheduler.shutdown();
                main.join(PLAIN_MAX.toMillis());
            }
            journal.call("end", "-", "");
        } catch (final InterruptedException | ExecutionException e) {
            journal.call("end", "-", e.toString());
        }
    }

    /** The timings that tests shorten. */
    private static LeaseManagementConfig leases(
            final LeaseManagementConfig config, final Map<String, String> options) {
        number(options, "failover-ms", config::failoverTimeMillis);
        number(options, "assignment-ms", config::leaseAssignmentIntervalMillis);
        number(options, "shard-sync-ms", config::shardSyncIntervalMillis);
        number(options, "leader-lease-ms", config::dynamoDbLockBasedLeaderLeaseDurationInMillis);
        number(options, "leader-heartbeat-ms", config::dynamoDbLockBasedLeaderHeartbeatPeriodInMillis);
        number(options, "auditor-ms", config::leasesRecoveryAuditorExecutionFrequencyMillis);
        number(
                options,
                "metrics-report-ms",
                config.workerUtilizationAwareAssignmentConfig()::workerMetricsReporterFreqInMillis);
        return config;
    }

    // DynamoDB Local keeps a database for each key: this is the one that kinetide takes for a server on this machine.
    private static <B extends AwsClientBuilder<B, C> & SdkClientBuilder<B, C>, C> B client(
            final B builder, final String endpoint) {
        return builder.endpointOverride(URI.create(endpoint))
                .region(Region.US_EAST_1)
                .credentialsProvider(StaticCredentialsProvider.create(AwsBasicCredentials.create("local", "local")));
    }

    private static Map<String, String> options(final String[] args) {
        final Map<String, String> options = new HashMap<>();
        for (int i = 0; i < args.length; i += 2) {
            if (!args[i].startsWith("--") || i + 1 == args.length) {
                throw new IllegalArgumentException("write --name value, not " + args[i]);
            }
            options.put(args[i].substring(2), args[i + 1]);
        }
        return options;
    }

    private static String required(final Map<String, String> options, final String name) {
        final String value = options.get(name);
        if (value == null) {
            throw new IllegalArgumentException("--" + name + " is missing");
        }
        return value;
    }

    private static void number(final Map<String, String> options, final String name, final LongConsumer set) {
        final String value = options.get(name);
        if (value != null) {
            set.accept(Long.parseLong(value));
        }
    }
}
