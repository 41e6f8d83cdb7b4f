package kinetide.interop;

import com.amazonaws.services.dynamodbv2.streamsadapter.AmazonDynamoDBStreamsAdapterClient;
import com.amazonaws.services.dynamodbv2.streamsadapter.StreamsSchedulerFactory;
import com.amazonaws.services.dynamodbv2.streamsadapter.adapter.DynamoDBStreamsClientRecord;
import com.amazonaws.services.dynamodbv2.streamsadapter.model.DynamoDBStreamsProcessRecordsInput;
import com.amazonaws.services.dynamodbv2.streamsadapter.polling.DynamoDBStreamsPollingConfig;
import com.amazonaws.services.dynamodbv2.streamsadapter.processor.DynamoDBStreamsShardRecordProcessor;
import java.io.FileWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.io.Writer;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.cloudwatch.CloudWatchAsyncClient;
import software.amazon.awssdk.services.dynamodb.DynamoDbAsyncClient;
import software.amazon.awssdk.services.dynamodb.streams.DynamoDbStreamsClient;
import software.amazon.kinesis.common.ConfigsBuilder;
import software.amazon.kinesis.common.InitialPositionInStream;
import software.amazon.kinesis.common.InitialPositionInStreamExtended;
import software.amazon.kinesis.coordinator.Scheduler;
import software.amazon.kinesis.exceptions.InvalidStateException;
import software.amazon.kinesis.exceptions.ShutdownException;
import software.amazon.kinesis.lifecycle.events.InitializationInput;
import software.amazon.kinesis.lifecycle.events.LeaseLostInput;
import software.amazon.kinesis.lifecycle.events.ShardEndedInput;
import software.amazon.kinesis.lifecycle.events.ShutdownRequestedInput;
import software.amazon.kinesis.metrics.NullMetricsFactory;
import software.amazon.kinesis.processor.RecordProcessorCheckpointer;
import software.amazon.kinesis.processor.ShardRecordProcessor;
import software.amazon.kinesis.processor.ShardRecordProcessorFactory;
import software.amazon.kinesis.processor.StreamTracker;

/**
 * A worker on the DynamoDB Streams adapter, which writes down what it was given before it checkpoints.
 *
 * <pre>
 * java -cp 'DIR/classes:DIR/jars/*' kinetide.interop.Adapter STREAM_ARN APPLICATION WORKER DYNAMODB STREAMS FILE
 * </pre>
 *
 * <p>DYNAMODB and STREAMS are endpoints: of the lease table, and of the table's stream. The adapter takes ARNs of regions of
 * AWS only, so that the streams of DynamoDB Local, whose region is ddblocal, cannot be read with it.
 *
 * <p>FILE gets lines {@code shardId sequenceNumber 0 0}, each written out at once. The log goes to stderr. SIGTERM shuts down
 * gracefully.
 */
public final class Adapter {
    private Adapter() {}

    public static void main(final String[] args) throws Exception {
        final String arn = args[0];
        final URI endpoint = URI.create(args[3]);
        final URI ofStreams = URI.create(args[4]);
        final var credentials = StaticCredentialsProvider.create(AwsBasicCredentials.create("local", "local"));
        final Writer file = new FileWriter(Path.of(args[5]).toFile(), StandardCharsets.UTF_8, true);
        final var streams = DynamoDbStreamsClient.builder()
                .endpointOverride(ofStreams)
                .region(Region.US_EAST_1)
                .credentialsProvider(credentials)
                .build();
        final var adapter = new AmazonDynamoDBStreamsAdapterClient(streams, Region.US_EAST_1);
        final var dynamodb = DynamoDbAsyncClient.builder()
                .endpointOverride(endpoint)
                .region(Region.US_EAST_1)
                .credentialsProvider(credentials)
                .build();
        final var cloudwatch = CloudWatchAsyncClient.builder()
                .endpointOverride(endpoint)
                .region(Region.US_EAST_1)
                .credentialsProvider(credentials)
                .build();
        final StreamTracker tracker = StreamsSchedulerFactory.createSingleStreamTracker(
                arn, InitialPositionInStreamExtended.newInitialPosition(InitialPositionInStream.TRIM_HORIZON));
        final ShardRecordProcessorFactory processors = new ShardRecordProcessorFactory() {
            @Override
            public ShardRecordProcessor shardRecordProcessor() {
                return new Processor(file);
            }
        };
        final ConfigsBuilder configs =
                new ConfigsBuilder(tracker, args[1], adapter, dynamodb, cloudwatch, args[2], processors);
        final var polling = new DynamoDBStreamsPollingConfig(adapter);
        polling.idleTimeBetweenReadsInMillis(500);
        final Scheduler scheduler = StreamsSchedulerFactory.createScheduler(
                configs.checkpointConfig(),
                configs.coordinatorConfig(),
                configs.leaseManagementConfig().failoverTimeMillis(3000),
                configs.lifecycleConfig(),
                configs.metricsConfig().metricsFactory(new NullMetricsFactory()),
                configs.processorConfig(),
                configs.retrievalConfig().retrievalSpecificConfig(polling),
                adapter);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                scheduler.startGracefulShutdown().get();
            } catch (final Exception e) {
                throw new IllegalStateException(e);
            }
        }));
        scheduler.run();
    }

    private static final class Processor implements DynamoDBStreamsShardRecordProcessor {
        private final Writer file;
        private String shard = "-";

        Processor(final Writer file) {
            this.file = file;
        }

        @Override
        public void initialize(final InitializationInput input) {
            shard = input.shardId();
        }

        @Override
        public void processRecords(final DynamoDBStreamsProcessRecordsInput input) {
            final StringBuilder lines = new StringBuilder();
            for (final DynamoDBStreamsClientRecord record : input.records()) {
                lines.append(shard).append(' ').append(record.sequenceNumber()).append(" 0 0\n");
            }
            synchronized (file) {
                try {
                    file.write(lines.toString());
                    file.flush();
                } catch (final IOException e) {
                    throw new UncheckedIOException(e);
                }
            }
            if (!input.records().isEmpty()) {
                checkpoint(input.checkpointer());
            }
        }

        @Override
        public void leaseLost(final LeaseLostInput input) {}

        @Override
        public void shardEnded(final ShardEndedInput input) {
            checkpoint(input.checkpointer());
        }

        @Override
        public void shutdownRequested(final ShutdownRequestedInput input) {
            checkpoint(input.checkpointer());
        }

        private static void checkpoint(final RecordProcessorCheckpointer checkpointer) {
            try {
                checkpointer.checkpoint();
            } catch (final ShutdownException e) {
                // The lease went to another worker, which reads these records again.
            } catch (final InvalidStateException e) {
                throw new IllegalStateException(e);
            }
        }
    }
}
