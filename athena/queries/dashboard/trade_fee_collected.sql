-- Trade Fee Collected (KPI): the raw fee, before discounts.
SELECT sum(trade_fee) AS trade_fee
FROM crypto.live_trades;
