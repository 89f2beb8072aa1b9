<?php
// Reads the relay's feed of events, for a program that cannot be called. PHP 7.4 or newer, no packages:
//
//   RELAY_URL=https://relay.example.com RELAY_KEY=… php feed.php [feed-next]
//
// feed-next is the file that keeps where we are. Without a service that runs all the time, call it from cron with
// FEED_ONCE=1: it then ends when there is nothing more.

declare(strict_types=1);

ini_set('display_errors', 'stderr');

/**
 * Your part: store the event if its `sequence` is above that of its `subject` (docs/receiving.md has the statement). It
 * gets the events of an order in their order. If the program ends before `next` is stored, they come again.
 */
function handle(array $event): void
{
    if (strpos($event['type'], 'audatex.parts.order.') === 0) {
        $order = $event['data']['order'];
        fwrite(STDOUT, "{$event['type']} {$event['site']} {$order['OrderReference']} {$order['Status']}\n");
    }
}

/** Returns status, Retry-After and body of the next page. It waits for half a minute if there is no event yet. */
function read(string $after, int $wait): array
{
    $query = http_build_query(['waitSeconds' => $wait] + ($after === '' ? [] : ['after' => $after]));
    $context = stream_context_create(['http' => [
        'header' => 'Authorization: Bearer ' . getenv('RELAY_KEY'), 'timeout' => 60, 'ignore_errors' => true,
    ]]);
    $body = @file_get_contents(getenv('RELAY_URL') . "/v1/events?$query", false, $context);
    $head = implode("\n", $http_response_header ?? []);
    preg_match('~^HTTP/\S+ (\d+)~', $head, $status);
    preg_match('~^Retry-After: *(\d+)~mi', $head, $retry);
    return [$body === false ? 0 : (int) ($status[1] ?? 0), (int) ($retry[1] ?? 5), (string) $body];
}

function save(string $file, string $after): void
{
    if (file_put_contents("$file.new", $after) !== strlen($after) || !rename("$file.new", $file)) {
        throw new RuntimeException("$file cannot be written");
    }
}

$once = (bool) getenv('FEED_ONCE');
$file = $argv[1] ?? 'feed-next';
$after = is_file($file) ? (string) file_get_contents($file) : ''; // without one: the oldest event that is kept
while (true) {
    [$status, $wait, $body] = read($after, $once ? 0 : 30);
    if ($status === 200) {
        try {
            $page = json_decode($body, true, 512, JSON_THROW_ON_ERROR);
            array_map('handle', $page['items']);
            save($file, $page['next']);
            if ($once && $page['items'] === [] && $page['next'] === $after) {
                exit(0);
            }
            $after = $page['next'];
            continue;
        } catch (Throwable $e) { // an event that could not be handled: the same page again
            error_log((string) $e);
        }
    } else {
        error_log("the relay answers $status $body");
        if ($status === 401 || $status === 403) {
            exit(1); // the key is wrong, revoked or expired
        }
        if ($status === 410) {
            $after = ''; // the log no longer has what follows: read GET /v1/orders as well
        }
    }
    sleep($wait);
}
