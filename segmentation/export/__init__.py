"""Networks leave the house: exported, proved equal, packaged."""
