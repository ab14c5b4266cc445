#!/bin/sh
# zkServer.sh start-foreground FILE, as in the official image.
# shellcheck disable=SC2086 # several flags
exec java "-Xmx${ZK_SERVER_HEAP:-1000}m" $SERVER_JVMFLAGS -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
  -cp /usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar \
  org.apache.zookeeper.server.quorum.QuorumPeerMain "$2"
