-- Bitcoin in the 24 hours before its newest price.
SELECT snapshot_time, current_price, volume_24h, price_change_pct_24h
FROM crypto_data.v_bitcoin_24h
ORDER BY 1;
