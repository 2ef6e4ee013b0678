#!/bin/sh
cd /app || exit 1
awk 'NF == 5 && $4 ~ /^[0-9]+$/ && $5 ~ /^[0-9]+$/ { count[$4]++; bytes[$4] += $5 }
  END { for (status in count) print status "," count[status] "," bytes[status] }' requests.log |
  sort -t, -k1,1n >rows
{ echo status,requests,bytes; cat rows; } >report.csv
rm rows
