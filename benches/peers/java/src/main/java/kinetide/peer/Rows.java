package kinetide.peer;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.List;

/** What a record is in the lake: one line, with its end. */
enum Rows {
    /** The payload in base64, whatever it is; the load test compares it. */
    RAW {
        @Override
        void write(final Position at, final byte[] payload, final ByteArrayOutputStream line) throws IOException {
            line.write(("{\"shard_id\":\"" + at.shard() + "\",\"sequence_number\":\"" + at.sequenceNumber()
                            + "\",\"worker\":\"" + at.worker() + "\",\"data\":\""
                            + Base64.getEncoder().encodeToString(payload) + "\"}\n")
                    .getBytes(StandardCharsets.UTF_8));
        }
    },
    /** The payload as it is, for a stream that has one line of JSON in each record: the least that can be done. */
    TEXT {
        @Override
        void write(final Position at, final byte[] payload, final ByteArrayOutputStream line) throws IOException {
            line.write(("{\"shard_id\":\"" + at.shard() + "\",\"sequence_number\":\"" + at.sequenceNumber()
                            + "\",\"worker\":\"" + at.worker() + "\",\"data\":")
                    .getBytes(StandardCharsets.UTF_8));
            line.write(payload);
            line.write("}\n".getBytes(StandardCharsets.UTF_8));
        }
    },
    /** The row of a change of the table CryptoTransactions, by Jackson: its tree to read, its generator to write. */
    CDC {
        @Override
        void write(final Position at, final byte[] payload, final ByteArrayOutputStream line) throws IOException {
            final JsonNode change = MAPPER.readTree(payload);
            final JsonNode dynamodb = change.get("dynamodb");
            final String name = change.get("eventName").textValue();
            final boolean deleted = "REMOVE".equals(name);
            final JsonNode image = dynamodb.get(deleted ? "OldImage" : "NewImage");
            final long created = dynamodb.get("ApproximateCreationDateTime").longValue();
            final boolean micros = "MICROSECOND"
                    .equals(dynamodb.path("ApproximateCreationDateTimePrecision").textValue());
            try (JsonGenerator row = FACTORY.createGenerator(line)) {
                row.writeStartObject();
                row.writeStringField("event_id", change.get("eventID").textValue());
                row.writeStringField("event_name", name);
                row.writeNumberField("cdc_ts_us", micros ? created : 1000 * created);
                row.writeStringField("table_name", change.get("tableName").textValue());
                row.writeStringField("shard_id", at.shard());
                row.writeStringField("sequence_number", at.sequenceNumber());
                row.writeBooleanField("is_deleted", deleted);
                for (final String column : TEXTS) {
                    row.writeStringField(column, image.path(column).path("S").textValue());
                }
                for (final String column : NUMBERS) {
                    final String digits = image.path(column).path("N").textValue();
                    row.writeFieldName(column);
                    row.writeNumber(digits == null ? null : new BigDecimal(digits));
                }
                row.writeEndObject();
            }
            line.write('\n');
        }
    };

    private static final ObjectMapper MAPPER = new ObjectMapper();
    private static final JsonFactory FACTORY = MAPPER.getFactory();
    private static final List<String> TEXTS = List.of(
            "transaction_id",
            "timestamp",
            "exchange",
            "trading_pair",
            "order_type",
            "trade_status",
            "user_id",
            "wallet_address",
            "order_source");
    private static final List<String> NUMBERS = List.of("price", "quantity", "trade_fee");

    /** Appends the line of a record. */
    abstract void write(Position at, byte[] payload, ByteArrayOutputStream line) throws IOException;

    /** Where a record is from, and who read it. */
    record Position(String shard, String sequenceNumber, String worker) {}
}
