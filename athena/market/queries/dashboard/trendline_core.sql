-- Four coins by hour, for seven days.
SELECT *
FROM crypto_data.v_trendline_core
ORDER BY id, price_hour;
