SELECT * FROM crypto.processed_crypto_txn WHERE risk_flag = 'MEDIUM_RISK'
