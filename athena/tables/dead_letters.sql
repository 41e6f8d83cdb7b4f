-- Records that could not become rows, by reason. Made by `kinetide schema`; do not edit.
CREATE EXTERNAL TABLE crypto.dead_letters (
  `attemptsmade` bigint,
  `arrivaltimestamp` bigint,
  `errorcode` string,
  `errormessage` string,
  `attemptendingtimestamp` bigint,
  `rawdata` string,
  `source` string,
  `shardid` string,
  `sequencenumber` string,
  `subsequencenumber` bigint,
  `arrivaltimestampmicros` bigint
)
PARTITIONED BY (reason string, year int, month int, day int, hour int)
ROW FORMAT SERDE 'org.apache.hive.hcatalog.data.JsonSerDe'
LOCATION 's3://BUCKET/errors/'
TBLPROPERTIES (
  'classification'='json', 'compressionType'='gzip', 'projection.enabled'='true',
  'projection.reason.type'='enum', 'projection.reason.values'='not_base64,not_utf8,not_json,not_object,no_dynamodb,unknown_event_name,bad_time,no_image,unknown_type,two_tags,no_tag,bad_number,bad_base64,wrong_json_type,too_deep,duplicate_name,wrong_type,ambiguous_names,compressed,several_documents,schema_registry,kpl_aggregate,bad_aggregate,no_snapshot,transform_panicked',
  'projection.year.type'='integer', 'projection.year.range'='2024,2035', 'projection.year.digits'='4',
  'projection.month.type'='integer', 'projection.month.range'='1,12', 'projection.month.digits'='2',
  'projection.day.type'='integer', 'projection.day.range'='1,31', 'projection.day.digits'='2',
  'projection.hour.type'='integer', 'projection.hour.range'='0,23', 'projection.hour.digits'='2',
  'storage.location.template'='s3://BUCKET/errors/${reason}/year=${year}/month=${month}/day=${day}/hour=${hour}/'
);
