#!/bin/sh
# Called by udhcpc with the lease in its environment.
case $1 in
deconfig)
    ip addr flush dev "$interface"
    ;;
bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/${mask:-24}" dev "$interface"
    for r in $router; do
        ip route add default via "$r" dev "$interface" && break
    done
    : > /etc/resolv.conf.new
    [ -z "$domain" ] || echo "search $domain" >> /etc/resolv.conf.new
    for d in $dns; do
        echo "nameserver $d" >> /etc/resolv.conf.new
    done
    mv /etc/resolv.conf.new /etc/resolv.conf
    ;;
esac
