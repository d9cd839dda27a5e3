<?php
// The flappy endpoint, version 1: `/` always answers, `/flappy` at random fails, is slow, or answers.

function answer(int $status, string $text): void
{
    http_response_code($status);
    header('Content-Type: text/plain');
    echo $text, "\n";
}

$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);

switch ($path) {
    case '/':
        answer(200, 'flappy endpoint v1');
        break;
    case '/flappy':
        switch (random_int(0, 3)) {
            case 0:
                answer(404, 'flapped: not found');
                break;
            case 1:
                answer(500, 'flapped: broken');
                break;
            case 2:
                sleep(3);
                answer(200, 'flapped: slow');
                break;
            default:
                answer(200, 'not flapped');
        }
        break;
    default:
        answer(404, 'no such page');
}
