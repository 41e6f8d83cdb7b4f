-- Rows of all times: those that are compacted, and those that are not yet. A row that is in both, or twice in one, is here
-- once; so what Firehose repeats is gone too. Give a condition on year and month.
CREATE OR REPLACE VIEW crypto.landing_all AS
SELECT * FROM crypto.landing_compacted
UNION
SELECT * FROM crypto.landing_transactions;
