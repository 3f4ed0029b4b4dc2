"""`make bench`: how fast Tokenmill is on this machine, beside what people would use instead. No part of the package."""
