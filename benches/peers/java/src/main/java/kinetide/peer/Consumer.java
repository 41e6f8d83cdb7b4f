package kinetide.peer;

import java.io.IOException;
import java.net.URI;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Locale;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
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
import software.amazon.kinesis.common.StreamIdentifier;
import software.amazon.kinesis.coordinator.Scheduler;
import software.amazon.kinesis.leases.LeaseManagementConfig;
import software.amazon.kinesis.metrics.NullMetricsFactory;
import software.amazon.kinesis.processor.SingleStreamTracker;
import software.amazon.kinesis.retrieval.polling.PollingConfig;

/**
 * A worker on the Kinesis Client Library that lands a stream in a folder of gzip NDJSON files, as its users write it.
 * It is told where by the variables of {@code kinetide loadtest --worker-command}; see docs/LOADTEST.md.
 *
 * <p>Not the library's defaults: polling, start at TRIM_HORIZON, no CloudWatch, JSON over HTTP/1.1, and timings that fit
 * the failover time of the load test. Where the library leaves a default beside a shorter failover time it is shortened
 * too, by more than in proportion: see {@link #leases}.
 */
public final class Consumer {
    private static final Duration GRACEFUL_MAX = Duration.ofSeconds(20);
    private static final Duration PLAIN_MAX = Duration.ofSeconds(20);
    private static final long POLL_MS = 500;

    private Consumer() {}

    public static void main(final String[] args) {
        System.setProperty("aws.cborEnabled", "false");
        System.setProperty("org.slf4j.simpleLogger.logFile", "System.err");
        System.setProperty("org.slf4j.simpleLogger.showDateTime", "true");
        System.setProperty("org.slf4j.simpleLogger.dateTimeFormat", "yyyy-MM-dd'T'HH:mm:ss.SSSXXX");
        System.setProperty("org.slf4j.simpleLogger.defaultLogLevel", "info");
        endWithParent();

        final KinesisAsyncClient kinesis = client(KinesisAsyncClient.builder(), told("KINESIS"))
                .httpClientBuilder(NettyNioAsyncHttpClient.builder().protocol(Protocol.HTTP1_1))
                .build();
        final DynamoDbAsyncClient dynamodb =
                client(DynamoDbAsyncClient.builder(), told("DYNAMODB")).build();
        // Never called: the metrics go nowhere.
        final CloudWatchAsyncClient cloudwatch =
                client(CloudWatchAsyncClient.builder(), told("DYNAMODB")).build();

        final var start = InitialPositionInStreamExtended.newInitialPosition(InitialPositionInStream.TRIM_HORIZON);
        final String stream = told("STREAM");
        final String worker = told("WORKER");
        final Lake lake = new Lake(Path.of(told("LAKE")), worker);
        final Duration batchAge = millis("BATCH_AGE_MS");
        // Without them: the payload as it came, and the level that zlib has by default.
        final Rows rows = Rows.valueOf(told("ROWS", "raw").toUpperCase(Locale.ROOT));
        final int gzipLevel = Integer.parseInt(told("GZIP_LEVEL", "-1"));
        final ConfigsBuilder configs = new ConfigsBuilder(
                new SingleStreamTracker(StreamIdentifier.singleStreamInstance(stream), start),
                told("APPLICATION"),
                kinesis,
                dynamodb,
                cloudwatch,
                worker,
                () -> new Processor(lake, batchAge, rows, gzipLevel));
        final PollingConfig polling = new PollingConfig(stream, kinesis).idleTimeBetweenReadsInMillis(POLL_MS);

        final Scheduler scheduler = new Scheduler(
                configs.checkpointConfig(),
                configs.coordinatorConfig(),
                leases(configs.leaseManagementConfig().initialPositionInStream(start), millis("FAILOVER_MS")),
                configs.lifecycleConfig(),
                configs.metricsConfig().metricsFactory(new NullMetricsFactory()),
                // A batch can grow old while no records come.
                configs.processorConfig().callProcessRecordsEvenForEmptyRecordList(true),
                configs.retrievalConfig().retrievalSpecificConfig(polling));
        final Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> shutDown(scheduler, main), "shutdown"));
        scheduler.run();
    }

    /** As the library's examples do; where its graceful way hangs, and now and then it does, the plain one follows. */
    private static void shutDown(final Scheduler scheduler, final Thread main) {
        try {
            try {
                scheduler.startGracefulShutdown().get(GRACEFUL_MAX.toSeconds(), TimeUnit.SECONDS);
            } catch (final TimeoutException e) {
                scheduler.shutdown();
                main.join(PLAIN_MAX.toMillis());
            }
            // Else a JVM that was told to end by a signal says that the signal killed it.
            Runtime.getRuntime().halt(0);
        } catch (final InterruptedException | ExecutionException e) {
            System.err.println("no graceful shutdown: " + e);
            Runtime.getRuntime().halt(1);
        }
    }

    /**
     * Timings. The library's defaults beside its failover time of 10 s: leader lock 120 s with a heartbeat every 30 s,
     * shard sync every 60 s, worker metrics every 30 s. The assignment interval follows the failover time by itself.
     */
    private static LeaseManagementConfig leases(final LeaseManagementConfig config, final Duration failover) {
        final long ms = failover.toMillis();
        config.failoverTimeMillis(ms);
        config.dynamoDbLockBasedLeaderLeaseDurationInMillis(2 * ms);
        config.dynamoDbLockBasedLeaderHeartbeatPeriodInMillis(ms / 2);
        config.shardSyncIntervalMillis(ms);
        config.workerUtilizationAwareAssignmentConfig().workerMetricsReporterFreqInMillis(ms);
        return config;
    }

    /** The load test holds stdin open for as long as it lives; a worker that outlived it would disturb the next run. */
    private static void endWithParent() {
        final Thread watch = new Thread(
                () -> {
                    try {
                        while (System.in.read() >= 0) {}
                    } catch (final IOException e) {
                        System.err.println("stdin: " + e);
                    }
                    Runtime.getRuntime().halt(1);
                },
                "end-with-parent");
        watch.setDaemon(true);
        watch.start();
    }

    private static <B extends AwsClientBuilder<B, C> & SdkClientBuilder<B, C>, C> B client(
            final B builder, final String endpoint) {
        return builder.endpointOverride(URI.create(endpoint))
                .region(Region.of(told("REGION")))
                .credentialsProvider(StaticCredentialsProvider.create(AwsBasicCredentials.create("local", "local")));
    }

    private static Duration millis(final String name) {
        return Duration.ofMillis(Long.parseLong(told(name)));
    }

    private static String told(final String name, final String otherwise) {
        return System.getenv("KINETIDE_PEER_" + name) == null ? otherwise : told(name);
    }

    private static String told(final String name) {
        final String value = System.getenv("KINETIDE_PEER_" + name);
        if (value == null) {
            throw new IllegalArgumentException("the variable KINETIDE_PEER_" + name + " is missing");
        }
        return value;
    }
}
