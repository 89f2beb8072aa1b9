<?php
// A complete receiver of the relay's callbacks in PHP 7.4 or newer, with the extension pdo_sqlite and no packages.
//
// Put it behind your web server (Apache, php-fpm), or try it with PHP's own. The variables are needed in both commands:
//
//   export WEBHOOK_SECRET=whsec_… RECEIVER_DB=/var/lib/bms/receiver.db    # not below the web server's directory
//   php -d post_max_size=17M -d display_errors=0 -S 127.0.0.1:3000 receiver.php     receives
//   php receiver.php                                                                works on what was received
//
// Run the second as a service beside the web server. In the server's php.ini set post_max_size = 17M (8M refuses large
// orders) and display_errors = Off (a warning that is displayed makes the answer 200, whatever it should have been).
// WEBHOOK_SECRET may hold several secrets, separated by spaces: the new and the old one while they are exchanged.

declare(strict_types=1);

const LARGEST_BODY = 16 * 1024 * 1024;
const TOLERANCE = 5 * 60; // seconds between the time of the attempt and our clock

const SCHEMA = "
    CREATE TABLE IF NOT EXISTS orders (
        subject  TEXT PRIMARY KEY,            -- the order
        sequence TEXT NOT NULL,               -- of its newest event; sixteen digits, so they compare as text
        event    TEXT NOT NULL,               -- that event
        worked   TEXT NOT NULL DEFAULT '');   -- the sequence of the last event that was worked on
    CREATE INDEX IF NOT EXISTS waiting ON orders (subject) WHERE worked < sequence;
";

// The whole rule against repeats, late arrivals and replays: it changes one row, or none.
const STORE_IF_NEWER = '
    INSERT INTO orders (subject, sequence, event) VALUES (?, ?, ?)
    ON CONFLICT (subject) DO UPDATE SET sequence = excluded.sequence, event = excluded.event
    WHERE excluded.sequence > orders.sequence
';

if (PHP_SAPI === 'cli') {
    work();
} else {
    try {
        http_response_code(receive());
    } catch (Throwable $e) { // the database, for example: the relay sends the event again
        error_log((string) $e);
        http_response_code(503);
    }
}

/** Verifies a delivery, stores it if it is new, and returns the status to answer with. */
function receive(): int
{
    if ($_SERVER['REQUEST_METHOD'] !== 'POST') {
        return 405;
    }
    // The bytes as they came: the signature is of these.
    $body = (string) file_get_contents('php://input', false, null, 0, LARGEST_BODY + 1);
    if (strlen($body) > LARGEST_BODY) {
        return 413;
    }
    if (!verify($body)) {
        return 401;
    }
    $event = json_decode($body, true);
    if (!is_string($event['type'] ?? null) || !is_string($event['subject'] ?? null)) {
        return 400;
    }
    if (!empty($event['test'])) {
        return 204; // a test of the callback: nothing happened to an order
    }
    if (strpos($event['type'], 'audatex.parts.order.') !== 0) {
        error_log("{$event['type']} {$event['subject']}"); // what the relay reports of itself, if it is asked to
        return 204;
    }
    if (!is_string($event['sequence'] ?? null) || !preg_match('/^[0-9]{16}$/D', $event['sequence'])) {
        return 400;
    }
    database()->prepare(STORE_IF_NEWER)->execute([$event['subject'], $event['sequence'], $body]);
    return 204; // stored, or known already. The work comes later: the relay waits for this answer
}

/** Reports whether one of the signatures was made with one of our secrets, a short time ago. */
function verify(string $body): bool
{
    $id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
    $timestamp = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
    if (!preg_match('/^[0-9]{1,12}$/D', $timestamp) || abs(time() - (int) $timestamp) > TOLERANCE) {
        return false;
    }
    foreach (secrets() as $secret) {
        $expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$timestamp.$body", $secret, true));
        foreach (explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '') as $signature) {
            if (hash_equals($expected, $signature)) {
                return true;
            }
        }
    }
    return false;
}

/** @return string[] the keys of our secrets; with none, nothing verifies */
function secrets(): array
{
    preg_match_all('~whsec_([A-Za-z0-9+/]+={0,2})(?!\S)~', (string) getenv('WEBHOOK_SECRET'), $found);
    if ($found[1] === []) {
        throw new RuntimeException('WEBHOOK_SECRET has no secret: whsec_…, as shown when the callback was made');
    }
    return array_map('base64_decode', $found[1]);
}

/** Works on the newest event of each order that has one waiting, also on those from before a restart. */
function work(): void
{
    $later = []; // orders that failed, with the time to work on them again; the others go on
    for (; true; usleep(500000)) {
        try {
            $db = database();
            $waiting = $db->query('SELECT subject, sequence, event FROM orders WHERE worked < sequence')->fetchAll();
            $worked = $db->prepare('UPDATE orders SET worked = ? WHERE subject = ?');
            foreach ($waiting as ['subject' => $subject, 'sequence' => $sequence, 'event' => $event]) {
                if (time() >= ($later[$subject] ?? 0)) {
                    $later[$subject] = time() + 60;
                    handle(json_decode($event, true));
                    $worked->execute([$sequence, $subject]); // if a newer event has come meanwhile, it still waits
                    unset($later[$subject]);
                }
            }
        } catch (Throwable $e) {
            error_log((string) $e);
        }
    }
}

/** Your part: bring the order in your system to this state. It may be called twice for one event. */
function handle(array $event): void
{
    $order = $event['data']['order'];
    fwrite(STDOUT, "{$event['type']} {$event['site']} {$order['OrderReference']} {$order['Status']}\n");
}

function database(): PDO
{
    $file = getenv('RECEIVER_DB');
    if (!$file) {
        throw new RuntimeException('RECEIVER_DB names no file for the database');
    }
    $db = new PDO("sqlite:$file", null, null, [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_TIMEOUT => 10]);
    $db->exec('PRAGMA journal_mode = WAL');
    $db->exec(SCHEMA);
    return $db;
}
