"""The contract of Tokenmill: generated from `protos/tokenmill/v1/*.proto`."""
